"""What `classify` answers: the most probable classes of one image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.results.checks import ResultError, check_array, check_same_length
from cdvision.results.connectors import data_frame
from cdvision.results.text_table import text_table

if TYPE_CHECKING:
    import pandas as pd


class ClassProbability(NamedTuple):
    """One class of a Classification, as plain Python values."""

    class_id: int
    class_name: str
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class Classification:
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

    def __post_init__(self) -> None:
        check_array("class_id", self.class_id, shape=("k",), dtype=np.int64)
        check_array("class_name", self.class_name, shape=("k",), dtype=np.str_)
        check_array("probability", self.probability, shape=("k",), dtype=np.float32)
        check_same_length(
            len(self.class_id), "class_id", class_name=self.class_name, probability=self.probability
        )
        if (self.probability[1:] > self.probability[:-1]).any():
            raise ResultError(
                f"probability must be sorted, best first, but got {self.probability.tolist()}"
            )

    def __len__(self) -> int:
        return len(self.class_id)

    def __iter__(self) -> Iterator[ClassProbability]:
        columns = (self.class_id.tolist(), self.class_name.tolist(), self.probability.tolist())
        return (ClassProbability(*row) for row in zip(*columns, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Classification):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("class_id", "class_name", "probability")
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, probabilities rounded to 5 digits."""
        return {
            "classes": [{**row._asdict(), "probability": round(row.probability, 5)} for row in self]
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the classes as entries of a table, unrounded."""
        return [row._asdict() for row in self]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Classification:
        """Rebuild from what `to_dict` returned."""
        rows = values["classes"]
        return cls(
            class_id=np.array([row["class_id"] for row in rows], dtype=np.int64),
            class_name=np.array([row["class_name"] for row in rows], dtype=np.str_),
            probability=np.array([row["probability"] for row in rows], dtype=np.float32),
        )

    def to_json(self) -> str:
        """Return `to_dict` as one compact line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Classification:
        """Rebuild from what `to_json` returned."""
        return cls.from_dict(json.loads(text))

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas table with one row per class."""
        columns = {
            "class_id": self.class_id,
            "class_name": self.class_name.tolist(),
            "probability": self.probability,
        }
        return data_frame(columns)
