"""What `attributes` answers: how probable each attribute of a face is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.results.answer_rows import AnswerRows, text_table
from cdvision.results.checks import ResultError


class Attribute(NamedTuple):
    """One attribute, as plain Python values."""

    name: str
    probability: float
    present: bool


@dataclass(frozen=True, eq=False, repr=False)
class Attributes(AnswerRows[Attribute]):
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

    KEY: ClassVar = "attributes"
    ROW: ClassVar = Attribute
    COLUMNS: ClassVar = {
        "name": (("k",), np.str_),
        "probability": (("k",), np.float32),
        "present": (("k",), np.bool_),
    }

    @property
    def present_names(self) -> tuple[str, ...]:
        """Names of the attributes that are present."""
        return tuple(self.name[self.present].tolist())

    def __getitem__(self, name: str) -> Attribute:
        found = next((attribute for attribute in self if attribute.name == name), None)
        if found is None:
            known = ", ".join(self.name.tolist())
            raise ResultError(f"no attribute {name!r} was asked for: there are {known}")
        return found

    def __repr__(self) -> str:
        return f"Attributes({len(self)}, present: {', '.join(self.present_names) or 'none'})"

    def __str__(self) -> str:
        rows = [[a.name, f"{a.probability:.1%}", "yes" if a.present else ""] for a in self]
        return text_table(["attribute", "probability", ""], rows, limit=len(rows))
