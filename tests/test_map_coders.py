"""What every coder of maps promises: the same tests for the hyperprior and the checkerboard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_coders import (
    BOUND,
    QUALITIES,
    Arrays,
    Coder,
    map_shapes,
    random_latents,
    same_latents,
    small_checkerboard,
    small_hyperprior,
)

from cdvision.entropy.tables import CodingError
from cdvision.errors import BitstreamError, ModelError

CODERS = {"hyperprior": small_hyperprior(), "checkerboard": small_checkerboard()}
SIZES = st.integers(1, 11)

every_coder = pytest.mark.parametrize("coder", CODERS.values(), ids=CODERS)


@every_coder
@given(
    seed=st.integers(0, 2**32 - 1),
    height=SIZES,
    width=SIZES,
    quality=st.integers(0, QUALITIES - 1),
    spread=st.sampled_from([0.0, 0.3, 3.0, 1e3, 1e6]),
)
@settings(max_examples=150, deadline=None)
def test_round_trip(
    coder: Coder, seed: int, height: int, width: int, quality: int, spread: float
) -> None:
    latents = random_latents(seed, height, width, spread)
    decoded = coder.decode(coder.encode(latents, quality), quality, map_shapes(height, width))
    kept = coder.received(latents, quality)
    assert same_latents(decoded, kept)
    assert same_latents(coder.received(kept, quality), kept)
    assert coder.encode(kept, quality) == coder.encode(latents, quality)


@every_coder
@pytest.mark.parametrize("quality", range(QUALITIES))
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (7, 8), (13, 11)])
def test_round_trip_at_the_edges(coder: Coder, size: tuple[int, int], quality: int) -> None:
    latents = random_latents(1, *size)
    decoded = coder.decode(coder.encode(latents, quality), quality, map_shapes(*size))
    assert same_latents(decoded, coder.received(latents, quality))


@every_coder
def test_the_largest_symbols_and_the_first_too_large_ones(coder: Coder) -> None:
    latents = random_latents(2, 6, 6)
    for value in (2**20 - 1, 1 - 2**20):
        latents["symbols"][:] = value
        kept = coder.received(latents, 1)
        assert (kept["symbols"] == value).any()
        decoded = coder.decode(coder.encode(latents, 1), 1, map_shapes(6, 6))
        assert same_latents(decoded, kept)
    for value in (2**20, -(2**20), 2**31 - 1, -(2**31)):
        latents["symbols"][:] = value
        with pytest.raises(CodingError, match="2\\^20"):
            coder.encode(latents, 1)


@every_coder
def test_hyper_latents_outside_the_bound_cannot_be_coded(coder: Coder) -> None:
    latents = random_latents(3, 5, 5)
    latents["hyper"][0, 0, 0] = BOUND + 1
    with pytest.raises(CodingError, match=r"expected a map within \[-\d+, \d+\], found"):
        coder.encode(latents, 0)


def body_and_size(coder: Coder) -> tuple[bytes, int, int]:
    return coder.encode(random_latents(5, 9, 7, spread=30.0), 2)[0], 9, 7


def decodes(coder: Coder, body: bytes, height: int, width: int, quality: int) -> bool:
    """Whether bytes decode to latents of the right shapes; False where they are refused."""
    shapes = map_shapes(height, width)
    try:
        latents = coder.decode({0: body}, quality, shapes)
    except BitstreamError:
        return False
    assert {name: array.shape for name, array in latents.items()} == shapes
    assert np.abs(latents["hyper"]).max() <= BOUND
    return True


@every_coder
def test_a_truncated_body_is_refused_at_every_byte(coder: Coder) -> None:
    body, height, width = body_and_size(coder)
    assert len(body) > 200
    assert decodes(coder, body, height, width, 2)
    assert not any(decodes(coder, body[:size], height, width, 2) for size in range(len(body)))


@every_coder
def test_a_body_of_another_size_is_refused(coder: Coder) -> None:
    body, height, width = body_and_size(coder)
    others = [(h, w) for h in range(1, 15) for w in range(1, 15) if h * w != height * width]
    assert not any(decodes(coder, body, h, w, 2) for h, w in others)


@every_coder
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)
)
@settings(max_examples=300, deadline=None)
def test_damage_gives_latents_or_a_bitstream_error(
    coder: Coder, changes: list[tuple[int, int]]
) -> None:
    body, height, width = body_and_size(coder)
    damaged = bytearray(body)
    for position, value in changes:
        damaged[position % len(body)] = value
    for quality in range(QUALITIES):
        decodes(coder, bytes(damaged), height, width, quality)


@every_coder
@given(body=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_latents_or_a_bitstream_error(coder: Coder, body: bytes) -> None:
    decodes(coder, body, 5, 6, 0)


@every_coder
def test_arrays_bring_it_back(coder: Coder, tmp_path: Path) -> None:
    np.savez(tmp_path / "tables.npz", **coder.to_arrays())
    with np.load(tmp_path / "tables.npz", allow_pickle=False) as archive:
        again = type(coder).from_arrays(dict(archive))
    assert again.fingerprint == coder.fingerprint
    latents = random_latents(6, 9, 5)
    assert again.encode(latents, 1) == coder.encode(latents, 1)


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, coder in CODERS.items() for key in coder.to_arrays()]
)
def test_a_missing_or_spoiled_array_is_a_model_error(name: str, key: str) -> None:
    coder = CODERS[name]
    arrays: Arrays = coder.to_arrays()
    spoiled = [arrays[key].astype(object), arrays[key].astype(np.float32), arrays[key][:0]]
    for value in spoiled:
        with pytest.raises(ModelError):
            type(coder).from_arrays(arrays | {key: value})
    with pytest.raises(ModelError):
        type(coder).from_arrays({k: v for k, v in arrays.items() if k != key})


THREADED = """
import hashlib, sys
import numpy as np
from cdvision.package.families import coder_class
with np.load(sys.argv[1]) as archive:
    coder = coder_class(int(sys.argv[2])).from_arrays(dict(archive))
rng, digest = np.random.default_rng(0), hashlib.sha256()
for quality in range(coder.qualities):
    z = rng.integers(-coder.network.bound, coder.network.bound + 1, (coder.hyper_channels, 12, 12))
    symbols = rng.integers(-9, 10, (coder.channels, 47, 48))
    latents = {"symbols": symbols.astype(np.int32), "hyper": z.astype(np.int32)}
    digest.update(coder.encode(latents, quality)[0])
print(digest.hexdigest())
"""


@pytest.mark.parametrize("codec", [1, 2])
def test_one_and_two_threads_write_the_same_bytes(codec: int, tmp_path: Path) -> None:
    coder = (small_hyperprior(), small_checkerboard())[codec - 1]
    np.savez(tmp_path / "tables.npz", **coder.to_arrays())
    digests = set()
    for threads in "12":
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", THREADED, str(tmp_path / "tables.npz"), str(codec)],
            env={**os.environ, **dict.fromkeys(names, threads)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1
