"""Converts Detectron2's pickled checkpoints to safetensors: once, explicitly, arrays only."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cdvision.errors import ModelError
from cdvision.networks.pickled_arrays import read_pickled_arrays


def convert_zoo_checkpoint(pkl_path: str | Path, out_path: str | Path) -> int:
    """Write the arrays of a Detectron2 ``.pkl`` checkpoint as safetensors, and return their number.

    Warns that a pickled file is being read: one of Detectron2's model zoo, or another in its
    format, a dict of arrays by name, perhaps under ``"model"``.

    Raises:
        ModelError: the file cannot be read, or holds anything but arrays, texts and numbers.
    """
    source = Path(pkl_path)
    warnings.warn(
        f"{source}: reading a pickled file, arrays only; convert only files whose author you trust",
        UserWarning,
        stacklevel=2,
    )
    try:
        with open(source, "rb") as file:
            content = read_pickled_arrays(file, str(source))
    except OSError as error:
        raise ModelError(f"{source}: cannot be read: {error.strerror}") from error
    model = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(model, dict) or not model:
        raise ModelError(f"{source}: expected a dict of arrays, found {type(content).__name__}")
    for name, value in model.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise ModelError(f"{source}: {name}: expected an array, found {type(value).__name__}")
    # safetensors writes arrays as they lie in memory: a transposed one would change its order.
    arrays = {str(name): np.ascontiguousarray(value) for name, value in model.items()}
    save_file(arrays, out_path, metadata={"source": source.name})
    return len(arrays)
