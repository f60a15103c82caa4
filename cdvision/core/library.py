"""The compiled library: found, loaded, and its functions declared."""

from __future__ import annotations

import ctypes
import sys
import warnings
import weakref
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

ABI = 1
FOLDER = Path(__file__).parent
NAME = {"darwin": "libcdv.dylib", "win32": "cdv.dll"}.get(sys.platform, "libcdv.so")

OK, TRUNCATED, BAD_ESCAPE, BAD_POINT, BAD_LENGTH, BAD_STATE, NOT_CODABLE, BAD_INDEX = range(8)


class CoreError(Exception):
    """A function of the core refused what it was given; ``status`` is that of ``cdv.h``."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status_text(status))


class Segment(Structure):
    """``cdv_segment``."""

    _fields_: ClassVar = [
        ("symbols", c_void_p),
        ("index", c_void_p),
        ("count", c_size_t),
        ("tables", c_void_p),
    ]


class RansState(Structure):
    """``cdv_rans_decoder``."""

    _fields_: ClassVar = [
        ("bytes", c_void_p),
        ("size", c_size_t),
        ("position", c_size_t),
        ("states", c_uint32 * 4),
    ]


class RangeState(Structure):
    """``cdv_range_decoder``."""

    _fields_: ClassVar = [
        ("bytes", c_void_p),
        ("size", c_size_t),
        ("position", c_size_t),
        ("point", c_uint64),
        ("width", c_uint64),
    ]


class DeltaMap(Structure):
    """``cdv_delta_map``."""

    _fields_: ClassVar = [
        *((name, c_size_t) for name in ("channels", "height", "width")),
        *((name, c_void_p) for name in ("scales", "symbols", "counts")),
    ]


class LayerSettings(Structure):
    """``cdv_layer``."""

    _fields_: ClassVar = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        *(
            (name, c_int32)
            for name in (
                "outs", "channels", "kernel", "bias_rows", "shift", "low", "high", "upsample",
            )
        ),
    ]  # fmt: skip


class Frame(Structure):
    """``cdv_frame``."""

    _fields_: ClassVar = [(name, c_float) for name in ("width", "height", "across", "down")]


_SIZE, _AT, _COUNT = c_size_t, c_void_p, POINTER(c_size_t)
# Arguments by function, in the order of ``cdv.h``; arrays and handles are addresses.
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cdv_tables_new": (_AT, _AT, _SIZE, _AT, _SIZE, POINTER(c_void_p)),
    "cdv_tables_free": (_AT,),
    "cdv_rans_encode": (POINTER(Segment), _SIZE, _AT, _SIZE, _COUNT, _COUNT),
    "cdv_rans_open": (POINTER(RansState), _AT, _SIZE),
    "cdv_rans_read": (POINTER(RansState), _AT, _SIZE, _SIZE, _AT, _AT),
    "cdv_rans_finish": (POINTER(RansState),),
    "cdv_range_encode": (POINTER(Segment), _SIZE, _AT, _SIZE, _COUNT, _COUNT),
    "cdv_range_open": (POINTER(RangeState), _AT, _SIZE),
    "cdv_range_read": (POINTER(RangeState), _AT, _SIZE, _AT, _AT),
    "cdv_range_finish": (POINTER(RangeState),),
    "cdv_network_new": (POINTER(LayerSettings), _SIZE, c_int32, POINTER(c_void_p)),
    "cdv_network_free": (_AT,),
    "cdv_network_planes": (_AT, _AT, _SIZE, _SIZE, _SIZE, _SIZE, _SIZE, _AT),
    "cdv_network_cells": (_AT, _AT, _SIZE, _SIZE, _SIZE, _AT),
    "cdv_attend": (_AT, _SIZE, _SIZE, _SIZE, _SIZE, c_int32, _AT, _SIZE, _AT),
    "cdv_codec_new": (_AT, _SIZE, POINTER(c_void_p)),
    "cdv_codec_free": (_AT,),
    "cdv_codec_fingerprint": (_AT, _AT),
    "cdv_best_candidates": (_AT, _AT, _SIZE, _SIZE, c_float, _SIZE, *[_AT] * 4, _COUNT),
    "cdv_distinct_boxes": (
        _AT, _AT, _SIZE, _AT, _AT, _SIZE, POINTER(Frame), c_float, _SIZE, *[_AT] * 3, _COUNT,
    ),
    "cdv_mask_lines": (
        _AT, _SIZE, _SIZE, _SIZE, _AT, _SIZE, _SIZE, _SIZE, _AT, _SIZE, _AT, _SIZE, _AT, _AT,
        _SIZE, _AT,
    ),
    "cdv_mask_positions": (_AT, _SIZE, _SIZE, _AT, *[ctypes.c_int64] * 4, _AT, _COUNT),
    "cdv_mask_text": (_AT, _SIZE, ctypes.c_int64, _AT, _COUNT),
    "cdv_pool_regions": (_AT, _SIZE, _SIZE, _SIZE, _AT, _AT, _SIZE, _SIZE, _SIZE, _AT, _SIZE),
    "cdv_delta_capacity": (POINTER(DeltaMap),),
    "cdv_delta_encode": (POINTER(DeltaMap), _AT, _AT, _AT, _SIZE, _COUNT),
    "cdv_delta_decode": (POINTER(DeltaMap), _AT, _AT, _SIZE),
    "cdv_delta_count": (POINTER(DeltaMap), _AT, _AT),
    "cdv_use_baseline": (c_int,),
}  # fmt: skip


_WITHOUT_STATUS = (
    "cdv_tables_free",
    "cdv_network_free",
    "cdv_codec_free",
    "cdv_codec_fingerprint",
    "cdv_use_baseline",
)


def load_library(path: Path = FOLDER / NAME) -> ctypes.CDLL:
    """Load the library and declare its functions.

    Raises:
        ImportError: there is none, or it is another version's; the message says what to do.
    """
    if not path.exists():
        raise ImportError(
            f"cdvision's native core is not built: {path} is missing; build it with "
            "`python build_core.py` in a checkout, or install cdvision anew"
        )
    library = ctypes.CDLL(str(path))
    if (found := library.cdv_abi()) != ABI:
        raise ImportError(
            f"{path} is the core of another version (ABI {found}, expected {ABI}); build it anew"
        )
    for name, arguments in _ARGUMENTS.items():
        getattr(library, name).argtypes = arguments
    for name in _WITHOUT_STATUS:
        getattr(library, name).restype = None
    library.cdv_delta_capacity.restype = c_size_t
    for name in ("cdv_status_text", "cdv_instructions"):
        getattr(library, name).restype = c_char_p
    return library


def warn_if_stale(path: Path = FOLDER / NAME) -> None:
    """Say so where a C file of a checkout is newer than the library beside it."""
    changed = [file.stat().st_mtime for file in path.parent.glob("*.[ch]")]
    if changed and path.exists() and max(changed) > path.stat().st_mtime:
        warnings.warn(
            f"{path} is older than its C files: run `make` or `python build_core.py`", stacklevel=2
        )


def status_text(status: int) -> str:
    """Return what a status means."""
    text: bytes = LIBRARY.cdv_status_text(status)
    return text.decode()


def instructions() -> str:
    """Return the instruction set that the loops use: ``avx2``, ``neon`` or ``baseline``."""
    text: bytes = LIBRARY.cdv_instructions()
    return text.decode()


def check(status: int) -> None:
    """Raise CoreError unless a function succeeded."""
    if status != OK:
        raise CoreError(status)


def address(array: NDArray[np.generic]) -> int:
    """Return where a C-contiguous array lies; whoever passes it on keeps the array."""
    where: int = array.__array_interface__["data"][0]
    return where


class Handle:
    """What the core made, freed with this object."""

    __slots__ = ("__weakref__", "pointer")

    def __init__(self, pointer: c_void_p, free: Any) -> None:
        self.pointer = pointer.value
        weakref.finalize(self, free, self.pointer).atexit = False


LIBRARY = load_library()
warn_if_stale()

__all__ = ["LIBRARY", "CoreError", "Handle", "address", "check", "instructions"]
