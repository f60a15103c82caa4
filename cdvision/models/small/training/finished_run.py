"""What a finished run of `small` leaves to those that go on from it."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from cdvision.models.small.training.sensitivity import Sensitivity
from cdvision.training.rate_control import RateControl
from cdvision.training.stage_run import CHECKPOINT, WEIGHTS

MASKS = "masks."  # begins the names of the mask branch's weights
METRIC, RATE = "sensitivity/", "rate/"  # begin the names of these modules in a checkpoint


def finished_weights(run: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of a run in single precision, and those of its mask branch, if any."""
    found = {name: value.float() for name, value in load_file(run / WEIGHTS).items()}
    masks = {name: found.pop(name) for name in list(found) if name.startswith(MASKS)}
    return found, masks


def restore_metric(sensitivity: Sensitivity, run: Path) -> bool:
    """Restore the metric of the losses; False for a run, of masks say, that has measured none."""
    state = _module(run, METRIC)
    if state:
        sensitivity.load_state_dict(state)
    return bool(state)


def restore_multipliers(rate: RateControl, run: Path) -> bool:
    """Restore what a run has found the qualities' bits to be worth; targets stay as they are."""
    state = _module(run, RATE)
    if state:
        rate.log_multiplier.copy_(state["log_multiplier"])
    return bool(state)


def _module(run: Path, prefix: str) -> dict[str, Tensor]:
    """Return the state of one module of a run's checkpoint; empty where there is none."""
    if not (run / CHECKPOINT).is_file():
        return {}
    with safe_open(run / CHECKPOINT, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
