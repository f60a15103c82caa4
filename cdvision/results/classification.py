"""What `classify` answers: the most probable classes of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.results.answer_rows import AnswerRows, text_table
from cdvision.results.checks import ResultError


class ClassProbability(NamedTuple):
    """One class of a Classification, as plain Python values."""

    class_id: int
    class_name: str
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class Classification(AnswerRows[ClassProbability]):
    """The K most probable classes of one image, best first.

    >>> top = Classification(
    ...     class_id=np.array([285, 281]),
    ...     class_name=np.array(["Egyptian cat", "tabby"]),
    ...     probability=np.array([0.75, 0.125], dtype=np.float32),
    ... )
    >>> top.best.class_name
    'Egyptian cat'
    >>> print(top)
    class         probability
    Egyptian cat        75.0%
    tabby               12.5%

    Attributes:
        class_id: (K,) int64.
        class_name: (K,) numpy str array.
        probability: (K,) float32 in [0, 1], descending.

    Raises:
        ResultError: a shape or dtype differs, or the probabilities are not sorted.
    """

    class_id: NDArray[np.int64]
    class_name: NDArray[np.str_]
    probability: NDArray[np.float32]

    KEY: ClassVar = "classes"
    DIGITS: ClassVar = 5
    ROW: ClassVar = ClassProbability
    COLUMNS: ClassVar = {
        "class_id": (("k",), np.int64),
        "class_name": (("k",), np.str_),
        "probability": (("k",), np.float32),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.probability[1:] > self.probability[:-1]).any():
            raise ResultError(
                f"probability must be sorted, best first, but got {self.probability.tolist()}"
            )

    def __repr__(self) -> str:
        shown = ", ".join(f"{row.class_name} {row.probability:.3f}" for row in list(self)[:5])
        return f"Classification({shown})"

    def __str__(self) -> str:
        rows = [[row.class_name, f"{row.probability:.1%}"] for row in self]
        return text_table(["class", "probability"], rows)

    @property
    def best(self) -> ClassProbability:
        """The most probable class."""
        if len(self) == 0:
            raise ResultError("best needs at least one class, but this Classification is empty")
        return next(iter(self))
