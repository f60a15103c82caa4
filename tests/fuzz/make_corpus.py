"""Writes seeds of the fuzz targets, from the golden streams: ``python make_corpus.py DIR``.

A folder a target, and ``codec.cdvc`` of `small` for those that decode whole streams.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import cdvision
from cdvision.entropy.range_coder import encode_short
from cdvision.entropy.rans import Segment, encode_segments
from cdvision.entropy.tables import SymbolTables
from cdvision.export.core_codec import codec_bytes, write_core
from cdvision.models.small.receiver.coder import DescribedMapCoder, DescriptorCoder
from cdvision.stream import Layer, read_stream, write_stream

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
from small_coders import QUALITIES, small_hyperprior  # noqa: E402

GOLDEN = sorted((TESTS / "golden").glob("*.cdv"))
# Those of known_tables.h.
KNOWN = SymbolTables(
    np.array([0, -1, -127, 5, -3], np.int16),
    np.array([0, 1, 127, 6, 3], np.int16),
    np.array([4096, 0, 1000, 2000, 1000, 96, *[16] * 256, 4095, 1, 0, *[1] * 7, 4089], np.uint16),
)
SPREAD = np.array([1, 3, 400, 1, 5000])  # of symbols, by table: the widest have escapes


def small_streams() -> Iterator[bytes]:
    """Yield streams of `small` for tiny network inputs, whose decoding takes no time."""
    model, rng = cdvision.load("small"), np.random.default_rng(3)
    coder = model.package.coder
    for width, height, quality in ((32, 64, 1), (96, 64, 4), (128, 96, 8)):
        shapes = model.card.latent_shapes((width, height))
        latents = {
            name: rng.integers(-2, 3, shape).astype(np.int32) * (rng.random(shape) < 0.1)
            for name, shape in shapes.items()
        }
        bodies = coder.encode(latents, quality - 1)
        yield write_stream(
            codec=model.card.codec,
            fingerprint=coder.fingerprint[:4],
            width=width - 3,
            height=height - 5,
            input_width=width,
            input_height=height,
            quality=quality,
            layers=[Layer(number, body) for number, body in bodies.items()],
        )


def coded_symbols() -> Iterator[tuple[bytes, bytes]]:
    """Yield inputs of the two coders' targets: counts and indices, then a body."""
    rng = np.random.default_rng(4)
    for count in (0, 5, 60, 300):
        index = rng.integers(0, len(KNOWN), count)
        symbols = np.rint(rng.standard_normal(count) * SPREAD[index]).astype(np.int32)
        escapes = np.isin(index, (1, 2, 4))
        symbols = np.where(escapes, symbols, np.clip(symbols, KNOWN.low[index], KNOWN.high[index]))
        segment = Segment(symbols.astype(np.int32), index, KNOWN)
        names = bytes([0, *index.tolist()])
        rans = count.to_bytes(2, "little") + b"\0\0" + names + encode_segments([segment])
        yield rans, bytes([count % 201]) + names + encode_short([segment])


def codec_files() -> Iterator[bytes]:
    """Yield small files of the kinds that ``--to core`` writes."""
    low = high = np.zeros(QUALITIES * 3, np.int16)
    narrow = SymbolTables(low - 1, high + 1, np.tile([1000, 2000, 1096, 0], 9).astype(np.uint16))
    vector = DescriptorCoder(narrow, QUALITIES)
    for coder in (vector, small_hyperprior(), DescribedMapCoder(vector, small_hyperprior())):
        yield codec_bytes(coder, 5, 8)


def write_seeds(folder: Path) -> None:
    """Write a folder of seeds a target; targets without one begin with nothing."""
    golden = [path.read_bytes() for path in GOLDEN]
    tiny = list(small_streams())
    bodies = [layer.body for bits in golden for layer in read_stream(bits).layers]
    rans, short = zip(*coded_symbols(), strict=True)
    seeds = {
        "stream": [*golden, *tiny],
        "decode": [*(bits for bits in golden if bits[4:9] == tiny[0][4:9]), *tiny],
        "rans": [*rans, *(b"\x40\0\0\0\0" + body for body in bodies)],
        "range": [*short, *(b"\x40\0" + body for body in bodies)],
        "codec_file": list(codec_files()),
    }
    for target, contents in seeds.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(contents):
            (folder / target / f"seed-{number}").write_bytes(data)
    write_core(cdvision.load("small"), folder)


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
