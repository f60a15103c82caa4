"""The coders that ``cdvision bench entropy`` times, behind one small interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.tables import SymbolTables


@dataclass(frozen=True)
class CodingJob:
    """Symbols to code, the table of each one, and both forms of the tables: integers and scales."""

    symbols: NDArray[np.int32]
    index: NDArray[np.uint8]
    tables: SymbolTables
    scale_table: NDArray[np.float64]


@dataclass(frozen=True)
class Coder:
    """A coder bound to one job: ``decode(encode())`` gives the job's symbols."""

    name: str
    encode: Callable[[], Any]
    decode: Callable[[Any], NDArray[np.integer]]
    size: Callable[[Any], int] = len


def cdvision_coder(job: CodingJob) -> Coder:
    """Ours, as the stream layers call it: all checks included."""
    from cdvision.entropy.rans import decode_latents, encode_latents

    return Coder(
        "cdvision",
        lambda: encode_latents(job.symbols, job.index, job.tables),
        lambda data: decode_latents(data, job.index, job.tables),
    )


def compressai_coder(job: CodingJob) -> Coder | None:
    """CompressAI's ``GaussianConditional``: compress and decompress, as its models call them."""
    if find_spec("compressai") is None:
        return None
    import torch
    from compressai.entropy_models import GaussianConditional

    torch.set_num_threads(1)
    model = GaussianConditional(job.scale_table.tolist())
    model.update()
    symbols = torch.from_numpy(job.symbols.astype(np.float32)).reshape(1, 1, -1)
    index = torch.from_numpy(job.index.astype(np.int32)).reshape(1, 1, -1)
    return Coder(
        f"CompressAI {version('compressai')}, decompress",
        lambda: model.compress(symbols, index),
        lambda strings: model.decompress(strings, index).numpy().ravel().astype(np.int32),
        lambda strings: sum(len(string) for string in strings),
    )


def compressai_bare_coder(job: CodingJob) -> Coder | None:
    """CompressAI's C++ coder alone, its Python lists made beforehand: its best case."""
    if find_spec("compressai") is None:
        return None
    from compressai.ans import RansDecoder, RansEncoder
    from compressai.entropy_models import GaussianConditional

    model = GaussianConditional(job.scale_table.tolist())
    model.update()
    cdf, sizes, offsets = (
        getattr(model, name).tolist() for name in ("_quantized_cdf", "_cdf_length", "_offset")
    )
    symbols, index = job.symbols.tolist(), job.index.tolist()
    return Coder(
        f"CompressAI {version('compressai')}, bare C++ coder",
        lambda: RansEncoder().encode_with_indexes(symbols, index, cdf, sizes, offsets),
        lambda data: np.array(RansDecoder().decode_with_indexes(data, index, cdf, sizes, offsets)),
    )


def constriction_coder(job: CodingJob) -> Coder | None:
    """The ANS coder of constriction with its quantised Gaussians."""
    if find_spec("constriction") is None:
        return None
    import constriction  # its submodules cannot be imported by name

    new_coder = constriction.stream.stack.AnsCoder
    model = constriction.stream.model.QuantizedGaussian(-127, 127)
    scales = job.scale_table[job.index]
    means = np.zeros_like(scales)
    symbols = np.clip(job.symbols, -127, 127)

    def encode() -> NDArray[np.uint32]:
        coder = new_coder()
        coder.encode_reverse(symbols, model, means, scales)
        words: NDArray[np.uint32] = coder.get_compressed()
        return words

    def decode(words: NDArray[np.uint32]) -> NDArray[np.integer]:
        decoded: NDArray[np.integer] = new_coder(words).decode(model, means, scales)
        return decoded

    return Coder(
        f"constriction {version('constriction')}", encode, decode, lambda words: 4 * len(words)
    )


RIVALS = (compressai_coder, compressai_bare_coder, constriction_coder)
