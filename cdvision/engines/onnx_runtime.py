"""ONNX Runtime as a library: loaded with its telemetry off, and left alone after a fork."""

from __future__ import annotations

import os
import sys
import warnings
from functools import cache
from typing import Any, Protocol
from weakref import WeakSet

VARIABLE = "ORT_DISABLE_TELEMETRY"


class HoldsSession(Protocol):
    """What holds sessions of ONNX Runtime, and can open them again."""

    def leave_to_parent(self) -> list[Any]:
        """Forget what was opened before a fork, and return it."""


_holders: WeakSet[Any] = WeakSet()


@cache
def onnxruntime() -> Any:
    """Import ONNX Runtime.

    Releases from 1.30 on send usage data from every process, by a thread that makes forked
    processes hang when they end. The variable is read when the library is loaded, so it is set
    before; where somebody else has loaded it, no more than the sending can be switched off.
    """
    late = "onnxruntime" in sys.modules and VARIABLE not in os.environ
    os.environ.setdefault(VARIABLE, "1")
    import onnxruntime as runtime

    if late:
        runtime.disable_telemetry_events()
        _loaded_by_others.append(True)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    return runtime


_loaded_by_others: list[bool] = []


def hold(holder: HoldsSession) -> None:
    """Have a holder open its sessions again in every process that is forked from this one."""
    _holders.add(holder)


def _after_fork() -> None:
    import ctypes

    for holder in list(_holders):
        for session in holder.leave_to_parent():
            # Its threads are the parent's: to end it here crashes or waits for ever. One reference
            # too many, and it never ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    if _loaded_by_others:
        warnings.warn(
            "this process was forked after onnxruntime had been loaded with its telemetry on, and "
            f"may hang when it ends: set {VARIABLE}=1, or load a cdvision model first",
            RuntimeWarning,
            stacklevel=2,
        )
