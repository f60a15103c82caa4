"""Reads pickled arrays of other projects without running what a pickle says.

Nothing else in cdvision reads pickles: its users convert a file once, to safetensors.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np

from cdvision.errors import ModelError

# Unpickling calls whatever a file names, so it may name these and nothing else. Asked of arrays
# themselves, because numpy 2 moved these to another module.
_CONSTRUCTORS: dict[str, Any] = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "_frombuffer": np.empty(0).__reduce_ex__(5)[0],
    "scalar": np.float32(0).__reduce__()[0],
}
_PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
}


def read_pickled_arrays(file: BinaryIO, name: str) -> Any:
    """Return the containers of arrays, texts and numbers that a pickle, ``name``, holds.

    Raises:
        ModelError: the pickle is broken, or names anything but arrays and plain containers.
    """
    try:
        return _ArraysOnly(file, encoding="latin1").load()
    except ModelError:
        raise
    except Exception as error:  # a broken pickle may raise anything at all
        raise ModelError(f"{name}: expected pickled arrays, found {error!r}") from error


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few constructors that are allowed."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if module.startswith(("numpy.core.", "numpy._core.")) and name in _CONSTRUCTORS:
            return _CONSTRUCTORS[name]
        raise ModelError(
            f"pickle: expected arrays only, found {module}.{name}; "
            f"do not load this file elsewhere unless you know its author"
        )


def _latin1_bytes(text: str, encoding: str) -> bytes:
    # Stands in for ``_codecs.encode``, by which protocol 2 stores bytes.
    if encoding != "latin1":
        raise ModelError(f"pickle: expected bytes as latin1, found {encoding!r}")
    return text.encode("latin1")
