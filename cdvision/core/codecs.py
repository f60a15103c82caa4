"""``codec.cdvc``: a model's entropy coder as one file, for programs without Python."""

from __future__ import annotations

from ctypes import byref, c_void_p

import numpy as np

from cdvision.core.library import LIBRARY, Handle, address, check


def new_codec(data: bytes) -> Handle:
    """Make a codec of a file's bytes; raises CoreError where they are none."""
    made, source = c_void_p(), np.frombuffer(data, np.uint8)
    check(LIBRARY.cdv_codec_new(address(source), len(data), byref(made)))
    return Handle(made, LIBRARY.cdv_codec_free)


def fingerprint_of(codec: Handle) -> bytes:
    """Return the four bytes that name the model in its streams."""
    found = np.empty(4, np.uint8)
    LIBRARY.cdv_codec_fingerprint(codec.pointer, address(found))
    return found.tobytes()
