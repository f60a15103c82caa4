"""A view: what a receiver knows of a camera after a packet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdvision.errors import BitstreamError

if TYPE_CHECKING:
    from cdvision.results import Detections
    from cdvision.stream_answers import Stream


@dataclass(frozen=True)
class View:
    """Answers after one packet; they cost a network run only where the packet changed something.

    Attributes:
        frame: number since the start, the first packet's taken as it is.
        time: seconds, ``frame`` over the rate; None before the first key.
        stale: True where a packet was lost: answers are those before the loss.
        stream: what answers; None before the first key.
    """

    frame: int
    time: float | None
    stale: bool
    stream: Stream | None

    def ask(self, task: str, **options: Any) -> Any:
        """Answer a task; see ``Stream.ask``.

        Raises:
            BitstreamError: no key has arrived yet.
        """
        return self._answering().ask(task, **options)

    def detect(self, **options: Any) -> Detections:
        """Detect objects; see ``Stream.detect``."""
        return self._answering().detect(**options)

    def segment(self, **options: Any) -> Detections:
        """Detect objects with a mask each; see ``Stream.segment``."""
        return self._answering().segment(**options)

    def _answering(self) -> Stream:
        if self.stream is None:
            raise BitstreamError(
                "key", expected="one before this packet", found="none: wait for it or request it"
            )
        return self.stream
