"""Golden streams: what was written once decodes to the same latents, anywhere and for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cdvision

GOLDEN = Path(__file__).parent / "golden"
RECORDS = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")

# Prints the hash of every golden stream's latents, and which engines were loaded on the way.
DECODE = """
import hashlib, json, pathlib, sys
import cdvision
hashes = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.cdv")):
    latents = cdvision.open(path.read_bytes()).latents()
    parts = (part.astype("<i4").tobytes() for part in latents)
    hashes[path.name] = hashlib.sha256(b"".join(parts)).hexdigest()
engines = [name for name in ("onnxruntime", "torch", "tensorrt") if name in sys.modules]
print(json.dumps({"hashes": hashes, "engines": engines}))
"""


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def decoded(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Decode all golden streams in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(GOLDEN)],
        env={**os.environ, **dict.fromkeys(THREADS, str(request.param))},
        capture_output=True,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_latents_are_those_that_were_written(decoded: dict[str, Any]) -> None:
    assert decoded["hashes"] == {r["stream"]: r["latents_sha256"] for r in RECORDS}


def test_decoding_loads_no_engine(decoded: dict[str, Any]) -> None:
    assert decoded["engines"] == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["stream"])
def test_the_header_says_what_was_written(record: dict[str, Any]) -> None:
    bits = (GOLDEN / record["stream"]).read_bytes()
    assert len(bits) == record["bytes"]
    stream = cdvision.open(bits)
    assert stream.complete
    assert stream.header.quality == record["quality"]
    assert stream.model.name == record["model"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["stream"])
def test_latents_that_are_coded_again_give_the_same_bytes(record: dict[str, Any]) -> None:
    from cdvision.stream import read_stream

    bits = (GOLDEN / record["stream"]).read_bytes()
    stream = cdvision.open(bits)
    layers = stream.model.package.codec.write(stream.latents(), stream.header.quality)
    assert [layer.body for layer in layers] == [layer.body for layer in read_stream(bits).layers]
