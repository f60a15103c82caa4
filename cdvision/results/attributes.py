"""What `attributes` answers: how probable each attribute of a face is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.results.checks import ResultError, check_array, check_same_length
from cdvision.results.text_table import text_table


class Attribute(NamedTuple):
    """One attribute, as plain Python values."""

    name: str
    probability: float
    present: bool


@dataclass(frozen=True, eq=False, repr=False)
class Attributes:
    """The K attributes of one face that were asked for.

    >>> face = Attributes(
    ...     name=np.array(["Eyeglasses", "Smiling"]),
    ...     probability=np.array([0.03, 0.75], dtype=np.float32),
    ...     present=np.array([False, True]),
    ... )
    >>> face["Smiling"].present, face.present_names
    (True, ('Smiling',))
    >>> print(face)
    attribute   probability
    Eyeglasses         3.0%
    Smiling           75.0%  yes

    Attributes:
        name: (K,) numpy str array.
        probability: (K,) float32 in [0, 1], calibrated on faces that were not trained on.
        present: (K,) bool: whether the probability reaches the attribute's own threshold, which is
            where it is right most often.

    Raises:
        ResultError: a shape, a dtype or a length differs from these.
    """

    name: NDArray[np.str_]
    probability: NDArray[np.float32]
    present: NDArray[np.bool_]

    def __post_init__(self) -> None:
        check_array("name", self.name, shape=("k",), dtype=np.str_)
        check_array("probability", self.probability, shape=("k",), dtype=np.float32)
        check_array("present", self.present, shape=("k",), dtype=np.bool_)
        check_same_length(
            len(self.name), "name", probability=self.probability, present=self.present
        )

    @property
    def present_names(self) -> tuple[str, ...]:
        """Names of the attributes that are present."""
        return tuple(self.name[self.present].tolist())

    def __len__(self) -> int:
        return len(self.name)

    def __iter__(self) -> Iterator[Attribute]:
        columns = (self.name.tolist(), self.probability.tolist(), self.present.tolist())
        return (Attribute(*row) for row in zip(*columns, strict=True))

    def __getitem__(self, name: str) -> Attribute:
        places = np.flatnonzero(self.name == name)
        if not len(places):
            known = ", ".join(self.name.tolist())
            raise ResultError(f"no attribute {name!r} was asked for: there are {known}")
        place = int(places[0])
        return Attribute(name, float(self.probability[place]), bool(self.present[place]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Attributes):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field), getattr(other, field))
            for field in ("name", "probability", "present")
        )

    __hash__ = None  # type: ignore[assignment]  # arrays cannot be hashed

    def __repr__(self) -> str:
        return f"Attributes({len(self)}, present: {', '.join(self.present_names) or 'none'})"

    def __str__(self) -> str:
        rows = [[a.name, f"{a.probability:.1%}", "yes" if a.present else ""] for a in self]
        return text_table(["attribute", "probability", ""], rows, limit=len(rows))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, probabilities with four digits."""
        rows = [{**a._asdict(), "probability": round(a.probability, 4)} for a in self]
        return {"attributes": rows}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the attributes as entries of a table, unrounded."""
        return [a._asdict() for a in self]

    def to_json(self) -> str:
        """Return ``to_dict`` as compact JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False)
