"""What a run of `cdvision train small` is made of: weights of the losses, parts and their rates."""

from __future__ import annotations

from typing import Any

from cdvision.models.small.network import Small
from cdvision.models.small.training.options import MapOptions
from cdvision.training.learning_rates import codec_rate, group_by_rate

WEIGHTS = {
    "detect/features": 1.0, "detect/pyramid": 1.0, "detect/scores": 1.0, "detect/boxes": 0.25,
}  # fmt: skip
SOLVED = (
    "encoder.analysis.linear", "taps.nanodet_plus_m.fine", "taps.nanodet_plus_m.coarse",
)  # fmt: skip
# Up to stage 2 the front stays as it came: a step then needs no gradient above 1/16, and the
# teacher shares it. The descriptor is computed apart, see ``descriptor.py``; the classifier stays.
FROZEN = (
    "encoder.front.stem.", "encoder.front.stage2.",
    "descriptor.", "taps.mobilenet_v2.", "tails.mobilenet_v2.",
)  # fmt: skip


def parameter_groups(model: Small, options: MapOptions) -> list[dict[str, Any]]:
    """Freeze what stays as it came; group the other parameters by learning rate."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    return group_by_rate(model, lambda name: _rate(name, options))


def _rate(name: str, options: MapOptions) -> float:
    if name.startswith(("tails.", "encoder.front.")):
        return options.pretrained_rate
    if name.startswith(SOLVED):
        return options.solved_rate
    return codec_rate(name, options.learning_rate)
