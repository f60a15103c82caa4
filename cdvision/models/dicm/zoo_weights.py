"""Converts Detectron2's pickled checkpoints to safetensors: once, explicitly, arrays only.

Unpickling runs whatever a file says. This reader lets a file name nothing but numpy's array
constructors and plain containers, so a hostile one fails; but it stays a file to get from its
author only, and nothing else in cdvision reads pickles.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cdvision.errors import ModelError

# Asked of arrays themselves, because numpy 2 moved these to another module.
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


def convert_zoo_checkpoint(pkl_path: str | Path, out_path: str | Path) -> int:
    """Write the arrays of a Detectron2 ``.pkl`` checkpoint as safetensors.

    Warns that a pickled file is being read.

    Args:
        pkl_path: a file of Detectron2's model zoo, or another in its format: a dict of arrays by
            name, perhaps under ``"model"``.
        out_path: the ``.safetensors`` file to write, which `CdvisionPredictor` takes.

    Returns:
        The number of arrays.

    Raises:
        ModelError: the file cannot be read, or holds anything but arrays, texts and numbers.
    """
    source = Path(pkl_path)
    warnings.warn(
        f"{source}: reading a pickled file, arrays only; convert only files whose author you trust",
        UserWarning,
        stacklevel=2,
    )
    arrays = _arrays(source, _read(source))
    save_file(arrays, out_path, metadata={"source": source.name})
    return len(arrays)


def _read(source: Path) -> Any:
    try:
        with open(source, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except OSError as error:
        raise ModelError(f"{source}: cannot be read: {error.strerror}") from error
    except ModelError:
        raise
    except Exception as error:  # a broken pickle may raise anything at all
        raise ModelError(f"{source}: expected a pickled checkpoint, found {error!r}") from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that can build arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few constructors that are allowed."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if module.startswith(("numpy.core.", "numpy._core.")) and name in _CONSTRUCTORS:
            return _CONSTRUCTORS[name]
        raise ModelError(
            f"pickled checkpoint: expected arrays only, found {module}.{name}; "
            f"do not load this file elsewhere unless you know its author"
        )


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Stand in for ``_codecs.encode``, by which protocol 2 stores bytes."""
    if encoding != "latin1":
        raise ModelError(f"pickled checkpoint: expected bytes as latin1, found {encoding!r}")
    return text.encode("latin1")


def _arrays(source: Path, content: Any) -> dict[str, np.ndarray]:
    model = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(model, dict) or not model:
        raise ModelError(f"{source}: expected a dict of arrays, found {type(content).__name__}")
    for name, value in model.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise ModelError(f"{source}: {name}: expected an array, found {type(value).__name__}")
    return {str(name): np.ascontiguousarray(value) for name, value in model.items()}
