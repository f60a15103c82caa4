"""How many batches run at once, and on which engine."""

from __future__ import annotations

import copy
import os
from collections.abc import Sized
from typing import TYPE_CHECKING

from cdvision.engines.onnx_engine import OnnxEngine

if TYPE_CHECKING:
    from cdvision.model import Model

MOST_WORKERS = 8
"""Each holds the activations of one batch, and what is left in Python takes turns."""


def choose_workers(model: Model, streams: object, batch_size: int) -> int:
    """Return how many batches should run at once, where nobody has said.

    One per core (8 at most) where each can do with one thread: batches side by side use the cores
    better than the threads of one run, which wait for each other at every layer. One where a list
    holds a single batch: it gets all threads of the engine. Two on another device, so that one
    batch is decoded while the other one is computed.
    """
    if isinstance(streams, Sized) and len(streams) <= batch_size:
        return 1
    engine = model.engine
    if isinstance(engine, OnnxEngine) and engine.device == "cpu":
        return max(1, min(usable_cores() // (engine.threads or 1), MOST_WORKERS))
    return 2


def model_for_workers(model: Model, workers: int) -> Model:
    """Return the model on an engine of one thread a run where several batches run at once.

    A number of threads that the user chose stays what it is.
    """
    engine = model.engine
    if workers == 1 or not isinstance(engine, OnnxEngine) or engine.threads is not None:
        return model
    narrow = copy.copy(model)
    narrow.engine = engine.single_threaded()
    return narrow


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
