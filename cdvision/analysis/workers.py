"""How many batches run at once, and on which engine."""

from __future__ import annotations

import os
from collections.abc import Sized
from typing import TYPE_CHECKING

from cdvision.engines.onnx_engine import OnnxEngine

if TYPE_CHECKING:
    from cdvision.model import Model

# Each holds the activations of one batch, and what is left in Python takes turns.
MOST_WORKERS = 8


def choose_workers(model: Model, streams: object, batch_size: int) -> int:
    """Return how many batches should run at once, where nobody has said."""
    # A single batch gets all threads of the engine.
    if isinstance(streams, Sized) and len(streams) <= batch_size:
        return 1
    engine = model.engine
    if isinstance(engine, OnnxEngine) and engine.device == "cpu":
        # Batches side by side use cores better than threads of one run, which wait at every layer.
        return max(1, min(usable_cores() // (engine.threads or 1), MOST_WORKERS))
    # Elsewhere one batch is decoded while the other is computed.
    return 2


def model_for_workers(model: Model, workers: int) -> Model:
    """Return the model on an engine of one thread a run where several batches run at once."""
    engine = model.engine
    # A number of threads that the user chose stays what it is.
    if workers == 1 or not isinstance(engine, OnnxEngine) or engine.threads is not None:
        return model
    return model.with_engine(engine.single_threaded())


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
