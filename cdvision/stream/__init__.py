"""The ``.cdv`` container: a header, then independently framed layers (``docs/format.md``).

::

    write_stream ─▶ bytes ─▶ read_stream ─▶ layers ─▶ (entropy decoder)
                      ├────▶ inspect          what is inside, without a model
                      └────▶ truncate_stream  the same picture for fewer bytes

Standard library only: a program that merely routes or stores streams needs nothing else.
"""

from __future__ import annotations

from cdvision.stream.container import (
    Layer,
    ParsedStream,
    read_stream,
    truncate_stream,
    write_stream,
)
from cdvision.stream.header import LayerEntry, StreamHeader
from cdvision.stream.inspection import LayerInfo, StreamInfo, inspect
from cdvision.stream.parser import StreamLimits

__all__ = [
    "Layer",
    "LayerEntry",
    "LayerInfo",
    "ParsedStream",
    "StreamHeader",
    "StreamInfo",
    "StreamLimits",
    "inspect",
    "read_stream",
    "truncate_stream",
    "write_stream",
]
