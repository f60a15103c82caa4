"""Videos to sequences and back: one call each way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdvision.errors import CdvisionError
from cdvision.stream import StreamLimits
from cdvision.stream.sequence import SequenceReader, SequenceWriter
from cdvision.video.decoder import VideoDecoder
from cdvision.video.encoder import VideoEncoder
from cdvision.video.sources import read_frames
from cdvision.video.view import View

if TYPE_CHECKING:
    from cdvision.model import Model


def encode_video(
    source: str | Path,
    out: str | Path,
    fps: float = 5.0,
    *,
    model: Model | str | Path | None = None,
    quality: int | None = None,
    **options: Any,
) -> int:
    """Encode a video into a ``.cdvs``; returns the number of packets. Needs the ``video`` extra.

    Args:
        source: a file, a URL or a device, as FFmpeg takes them.
        out: the file to write. What is there when the source ends plays, index or not.
        fps: frames a second that are taken of it.
        model: a loaded model, a name or a folder; the default model where None.
        quality: 1 (smallest) to 8; the model's default where None.
        options: the others of ``VideoEncoder``: ``key_seconds``, ``size``, ``gate``.

    Raises:
        ImageError: the source cannot be read.
        CdvisionError: PyAV is not installed, an option is out of range, or ``out`` is ``source``.
    """
    sender = VideoEncoder(model, quality, fps=fps, **options)
    if Path(source).resolve() == Path(out).resolve():
        raise CdvisionError(f"{out}: the sequence would replace the video that is read")
    packets = (sender.push(frame, time=time) for time, frame in read_frames(source, fps))
    first = [*islice(packets, 1)]  # a source that cannot be read costs no file that exists
    count = 0
    with open(out, "wb") as file:
        writer = SequenceWriter(file)
        for packet in chain(first, packets):
            writer.write(packet)
            count += 1
        writer.close()
    return count


def open_video(
    sequence: str | Path | bytes,
    *,
    model: Model | str | Path | None = None,
    limits: StreamLimits | None = None,
) -> Iterator[View]:
    """Yield a view for each packet of a ``.cdvs``, a path or its bytes; a cut one up to the cut.

    Raises:
        BitstreamError: the bytes are no sequence of an installed model, or are damaged.
        FileNotFoundError: there is no such file.
    """
    data = sequence if isinstance(sequence, bytes) else Path(sequence).read_bytes()
    decoder = VideoDecoder(model, limits=limits)
    reader = SequenceReader(data, limits=limits or StreamLimits())
    return map(decoder.push, reader)
