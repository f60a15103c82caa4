"""What goes into an analysis and what comes out: one result a stream, an error among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from cdvision.errors import CdvisionError
from cdvision.texts import printable

if TYPE_CHECKING:
    from cdvision.results import Attributes, Classification, Detections

# Bytes of one stream, or why a source could not read them.
Content: TypeAlias = bytes | bytearray | memoryview | CdvisionError
# A stream alone, or with the key that its result will carry.
StreamItem: TypeAlias = Content | tuple[str | int, Content]
StreamItems: TypeAlias = Iterable[StreamItem]


@dataclass(frozen=True)
class AnalysisResult:
    """Answers for one stream of an analysis.

    Attributes:
        index: position of the stream in the input, from 0.
        answers: by the names that the tasks give them: ``detections``, ``classification`` ...
        error: what was wrong with the stream; the answers are then None.
        key: the stream's name in its source; None where the source gave none.
        image_size: (width, height) of the photo; None where the header could not be read.
        size: bytes of the stream; 0 where the item was none.
    """

    index: int
    answers: Mapping[str, Any] = field(default_factory=dict)
    error: CdvisionError | None = None
    key: str | None = None
    image_size: tuple[int, int] | None = None
    size: int = 0

    @property
    def name(self) -> str:
        """The key, or the position where there is none; bytes that are no UTF-8 are escaped."""
        return str(self.index) if self.key is None else printable(self.key)

    @property
    def error_text(self) -> str | None:
        """What the error says, in letters that every file can hold; None where there is none."""
        return None if self.error is None else printable(str(self.error))

    @property
    def detections(self) -> Detections | None:
        """Boxes; None where neither detection nor segmentation was asked for."""
        return self.answers.get("detections")

    @property
    def classification(self) -> Classification | None:
        """Classes; None where classification was not asked for."""
        return self.answers.get("classification")

    @property
    def attributes(self) -> Attributes | None:
        """Of a face; None where they were not asked for."""
        return self.answers.get("attributes")
