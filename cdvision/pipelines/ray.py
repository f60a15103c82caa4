"""Ray Data: streams or photos in a data set, one model an actor, results in a data set.

::

    import ray
    from cdvision.pipelines.ray import CdvisionPredictor, actors

    streams = ray.data.read_parquet("streams/")
    results = streams.map_batches(CdvisionPredictor, **actors(2, tasks=["detect"]))
    results.write_parquet("results/")

A CPU actor takes one core and one thread of the engine; a GPU actor one GPU (or a share of one) and
decodes the next batch while the GPU works. A stream that is bad is a row with an error; when an
actor or its machine dies, Ray starts another and gives it the batch again: rows are pure functions
of rows, so each is in the result exactly once.
"""

from __future__ import annotations

from typing import Any

from cdvision.optional_imports import import_optional
from cdvision.pipelines.batches import PhotoEncoder, StreamPredictor

BATCH_ROWS = 64


class CdvisionPredictor(StreamPredictor):
    """``map_batches`` of a data set of streams; arguments are those of ``StreamPredictor``."""


class CdvisionEncoder(PhotoEncoder):
    """``map_batches`` of ``ray.data.read_binary_files(..., include_paths=True)``."""


def actors(
    count: int, *, cpus: int = 1, gpus: float = 0, rows: int = BATCH_ROWS, **arguments: Any
) -> dict[str, Any]:
    """Return what ``map_batches`` has to be told to run ``count`` actors.

    Args:
        count: actors; each loads the model once.
        cpus: cores of a CPU actor, and threads of its engine.
        gpus: GPUs of an actor, for example 0.5; the model then runs on ``"cuda"``.
        rows: rows that an actor is given at once: the most that are computed again when it dies.
        arguments: of ``CdvisionPredictor`` or ``CdvisionEncoder``.

    Raises:
        CdvisionError: Ray is not installed.
    """
    data = import_optional("ray.data", "a Ray pipeline")
    device = {"device": "cuda"} if gpus else {}
    return {
        "compute": data.ActorPoolStrategy(size=count),
        "batch_size": rows,
        "batch_format": "pyarrow",
        "num_cpus": cpus,
        **({"num_gpus": gpus} if gpus else {}),
        "fn_constructor_kwargs": {"threads": cpus, **device, **arguments},
    }
