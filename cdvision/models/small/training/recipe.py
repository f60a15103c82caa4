"""What a run of `cdvision train small` is made of: length, rates, weights of the losses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cdvision.models.small.network import Small
from cdvision.training.learning_rates import codec_rate

WEIGHTS = {
    "detect/features": 1.0, "detect/pyramid": 1.0, "detect/scores": 1.0, "detect/boxes": 0.25,
}  # fmt: skip
# Parts that start from a good solution learn slowly, or the first hundred steps destroy it.
SOLVED = (
    "encoder.analysis.linear", "taps.nanodet_plus_m.fine", "taps.nanodet_plus_m.coarse",
)  # fmt: skip
# Up to stage 2 the front stays as it came: a step then needs no gradient above 1/16, and the
# teacher shares it. The descriptor is computed apart, see ``descriptor.py``; the classifier stays.
FROZEN = (
    "encoder.front.stem.", "encoder.front.stage2.",
    "descriptor.", "taps.mobilenet_v2.", "tails.mobilenet_v2.",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a run of `cdvision train small` does; every field is an option of the command."""

    minutes: float = 150.0
    batch: int = 8
    learning_rate: float = 5e-4
    solved_rate: float = 1e-4
    pretrained_rate: float = 8e-5
    warmup_steps: int = 100
    average: float = 0.999
    save_minutes: float = 5.0
    seed: int = 0


def parameter_groups(model: Small, recipe: Recipe) -> list[dict[str, object]]:
    """Group the parameters by learning rate, for an optimiser."""
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rates.setdefault(_rate(name, recipe), []).append(parameter)
    return [{"params": p, "lr": rate, "base_rate": rate} for rate, p in rates.items()]


def freeze(model: Small) -> None:
    """Take the layers that stay as they came out of the training."""
    for name, parameter in model.named_parameters():
        if name.startswith(FROZEN):
            parameter.requires_grad_(False)


def _rate(name: str, recipe: Recipe) -> float:
    if name.startswith(("tails.", "encoder.front.")):
        return recipe.pretrained_rate
    if name.startswith(SOLVED):
        return recipe.solved_rate
    return codec_rate(name, recipe.learning_rate)
