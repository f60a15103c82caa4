"""Spark: a function for ``DataFrame.mapInPandas``, of the same shape as Ray's predictor.

::

    from cdvision.pipelines.spark import spark_predictor, spark_schema

    streams = spark.read.parquet("streams/")
    results = streams.mapInPandas(spark_predictor(tasks=["detect"]), spark_schema())

The model is loaded once a Python worker process. Spark reuses these from task to task
(``spark.python.worker.reuse``, on by default) and repeats the task where one dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from cdvision.pipelines.batches import StreamPredictor
from cdvision.pipelines.schema import spark_schema

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["spark_predictor", "spark_schema"]

Frames = Iterator["pd.DataFrame"]


def spark_predictor(**arguments: Any) -> Callable[[Frames], Frames]:
    """Return the function for ``mapInPandas``, with arguments of ``StreamPredictor``."""
    # Spark sends the function to its workers: what it holds must be hashable and small.
    settled = tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in sorted(arguments.items())
    )

    def predict(frames: Frames) -> Frames:
        predictor = _predictor(settled)
        for frame in frames:
            # Without it, a null makes a column of integers a column of floats.
            yield predictor(frame).to_pandas(integer_object_nulls=True)

    return predict


@cache
def _predictor(arguments: tuple[tuple[str, Any], ...]) -> StreamPredictor:
    """Load the model once in this process."""
    return StreamPredictor(**dict(arguments))
