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
PACKAGES = Path(__file__).parent / "packages"
RECORDS = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
CUT = [record["stream"] for record in RECORDS if record["stream"].endswith("-base.cdv")]
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")

# Prints the hash of every golden stream's latents, and which engines were loaded on the way.
DECODE = """
import hashlib, json, pathlib, sys
import cdvision
hashes = {}
for name, model in json.loads(sys.argv[2]):
    bits = (pathlib.Path(sys.argv[1]) / name).read_bytes()
    latents = cdvision.open(bits, model=model).latents()
    parts = (part.astype("<i4").tobytes() for part in latents.values())
    hashes[name] = hashlib.sha256(b"".join(parts)).hexdigest()
engines = [name for name in ("onnxruntime", "torch", "tensorrt") if name in sys.modules]
print(json.dumps({"hashes": hashes, "engines": engines}))
"""


def model_of(record: dict[str, Any]) -> str | None:
    """Return the folder of a tiny package; None for the installed model that wrote the stream."""
    folder = PACKAGES / record["model"]
    return str(folder) if folder.is_dir() else None


def opened(record: dict[str, Any]) -> cdvision.Stream:
    return cdvision.open((GOLDEN / record["stream"]).read_bytes(), model=model_of(record))


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def decoded(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Decode all golden streams in an interpreter of its own."""
    streams = json.dumps([(record["stream"], model_of(record)) for record in RECORDS])
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(GOLDEN), streams],
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
    stream = opened(record)
    assert stream.complete == (record["stream"] not in CUT)
    assert stream.header.quality == record["quality"]
    assert stream.model.name == record["model"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["stream"])
def test_latents_that_are_coded_again_give_the_same_bytes(record: dict[str, Any]) -> None:
    from cdvision.stream import read_stream

    bits = (GOLDEN / record["stream"]).read_bytes()
    stream = opened(record)
    bodies = stream.model.package.coder.encode(stream.latents(), stream.header.quality - 1)
    assert bodies == {layer.id: layer.body for layer in read_stream(bits).layers}
