"""The C examples, compiled here, say what Python says.

``boxes`` needs ONNX Runtime's C headers, which its wheel does not hold: ``ONNXRUNTIME=DIR`` names a
release's folder (``include/``; ``lib/``, or else the wheel's library is linked).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import cdvision
from cdvision.export.core_codec import write_core

REPOSITORY = Path(__file__).parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"
SMALL = ("astronaut-q1", "astronaut-q1-compact", "cat-q4", "cat-q4-descriptor", "cat-q4-map",
         "coffee-q8")  # fmt: skip
WITH_MAP = [name for name in SMALL if name != "cat-q4-descriptor"]
HEADER = "onnxruntime_c_api.h"
USUAL = ("/usr/local", "/usr", "/opt/onnxruntime")

pytestmark = pytest.mark.skipif(
    not shutil.which("cc") or not shutil.which("make"), reason="needs the commands cc and make"
)


def made(folder: Path, target: str, *settings: str) -> Path:
    """Make an example in a copy of its folder."""
    work = folder / "c"
    if not work.exists():
        ignored = shutil.ignore_patterns("latents", "boxes")
        shutil.copytree(REPOSITORY / "examples" / "c", work, ignore=ignored)
    command = ["make", "-s", target, f"PYTHON={sys.executable}", "CFLAGS=-O2 -Wall -Werror"]
    done = subprocess.run([*command, *settings], cwd=work, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return work / target


def output_of(program: Path, *arguments: str | Path) -> list[list[str]]:
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return [line.split() for line in done.stdout.splitlines()]


def refusal_of(program: Path, *arguments: str | Path) -> str:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def codec(work: Path) -> Path:
    return write_core(cdvision.load("small"), work / "model").file


@pytest.fixture(scope="module")
def latents(work: Path) -> Path:
    return made(work, "latents")


def stream_at(name: str) -> Path:
    return GOLDEN / f"{name}.cdv"


# --- latents


@pytest.mark.parametrize("name", SMALL)
def test_latents_are_those_of_python(name: str, latents: Path, codec: Path) -> None:
    stream = cdvision.open(stream_at(name).read_bytes())
    told = {
        words[2]: ([int(words[k]) for k in (3, 5, 7)], int(words[8], 16))
        for words in output_of(latents, codec, stream_at(name))[1:]
    }
    expected = {}
    for latent, array in stream.latents().items():
        shape = [*array.shape, 1, 1][:3]
        expected[latent] = shape, zlib.crc32(array.astype("<i4").tobytes())
    if "descriptor" in expected:
        layer_0 = output_of(latents, codec, stream_at(name))[1]
        assert layer_0[1:3] == ["0", "symbols"]
        shape = [int(layer_0[k]) for k in (3, 5, 7)]
        assert (shape, int(layer_0[8], 16)) == expected.pop("descriptor")
    assert {key: told[key] for key in expected} == expected


def test_a_cut_stream_gives_what_has_arrived(latents: Path, codec: Path, tmp_path: Path) -> None:
    bits = stream_at("cat-q4").read_bytes()
    (tmp_path / "cut.cdv").write_bytes(bits[:-1])
    lines = output_of(latents, codec, tmp_path / "cut.cdv")
    assert " ".join(lines[0]).endswith("1 of 2 layers")
    assert [line[:2] for line in lines[1:]] == [["layer", "0"]]


def test_files_that_are_none_are_named(latents: Path, codec: Path, tmp_path: Path) -> None:
    bits = stream_at("cat-q4").read_bytes()
    damaged = tmp_path / "damaged.cdv"
    damaged.write_bytes(bits[:-9] + b"\0" + bits[-8:])
    (tmp_path / "header.cdv").write_bytes(bits[:20])
    at = len(bits) - 4
    for stream, message in (
        (tmp_path / "missing.cdv", "cannot be read: No such file"),
        (codec, "at byte 3: format version: a damaged header, or one of another format"),
        (damaged, f"at byte {at}: layer 1 checksum (layer id 1): a checksum disagrees"),
        (tmp_path / "header.cdv", "a damaged header"),
        (stream_at("hsc-q4"), "a stream of another model: expected fingerprint 0b8f5176"),
    ):
        assert message in refusal_of(latents, codec, stream)
    assert "expected a codec.cdvc" in refusal_of(latents, stream_at("cat-q4"), stream_at("cat-q4"))
    assert "usage:" in refusal_of(latents)


def test_the_header_compiles_as_cplusplus(tmp_path: Path) -> None:
    if not shutil.which("c++"):
        pytest.skip("needs the command c++")
    page = (REPOSITORY / "docs" / "c.md").read_text(encoding="utf-8")
    (tmp_path / "page.cpp").write_text(page.split("```cpp\n")[1].split("```")[0])
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "page.cpp"]
    folder = REPOSITORY / "cdvision" / "core"
    done = subprocess.run([*command, f"-I{folder}"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- boxes


def headers() -> Path | None:
    """Return the folder of ONNX Runtime's C headers."""
    for root in filter(None, (os.environ.get("ONNXRUNTIME"), *USUAL)):
        for folder in (Path(root, "include"), Path(root, "include", "onnxruntime")):
            if (folder / HEADER).is_file():
                return folder
    return None


def wheel_library() -> Path:
    """Return the shared library in ONNX Runtime's wheel."""
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("capi/libonnxruntime.so.*"))


@pytest.fixture(scope="module")
def boxes(work: Path) -> Path:
    include = headers()
    if include is None:
        pytest.skip(f"{HEADER} not found: set ONNXRUNTIME=DIR to a release of ONNX Runtime")
    release = work / "onnxruntime"
    (release / "lib").mkdir(parents=True)
    (release / "include").symlink_to(include.resolve())
    named = Path(os.environ.get("ONNXRUNTIME", "/none"), "lib", "libonnxruntime.so")
    library = named if named.exists() else wheel_library()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (release / "lib" / name).symlink_to(library.resolve())
    return made(work, "boxes", f"ONNXRUNTIME={release}")


@pytest.fixture(scope="module")
def graph(work: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    from cdvision.export.standalone_graph import standalone_graph

    path = work / "answer.onnx"
    onnx.save(standalone_graph(cdvision.load("small").package, "answer.nanodet_plus_m"), path)
    return path


@pytest.mark.parametrize("name", WITH_MAP)
def test_boxes_are_those_of_python(name: str, boxes: Path, graph: Path, codec: Path) -> None:
    stream = cdvision.open(stream_at(name).read_bytes())
    for confidence, iou in ((0.3, 0.6), (0.05, 0.4)):
        options = ("--confidence", str(confidence), "--iou", str(iou))
        lines = output_of(boxes, *options, codec, graph, stream_at(name))
        found = stream.detect(confidence=confidence, iou=iou)
        assert [int(line[0]) for line in lines] == found.class_id.tolist()
        numbers = np.array([list(map(float, line[1:])) for line in lines]).reshape(-1, 5)
        assert np.abs(numbers[:, 0] - found.confidence).max(initial=0) < 2e-4
        assert np.abs(numbers[:, 1:] - found.xyxy).max(initial=0) < 0.02


def test_what_boxes_refuses(boxes: Path, graph: Path, codec: Path) -> None:
    sound = codec, graph, stream_at("cat-q4")
    for value in ("nan", "-0.1", "1.5", "much", ""):
        assert "expected a number from 0 to 1" in refusal_of(boxes, "--iou", value, *sound)
    assert "expected --confidence or --iou" in refusal_of(boxes, "--top", "5", *sound)
    assert "usage:" in refusal_of(boxes, codec, graph)
    cut = stream_at("cat-q4-descriptor")
    assert "expected a layer that is a map" in refusal_of(boxes, codec, graph, cut)
    assert "ONNX Runtime: " in refusal_of(boxes, codec, codec, stream_at("cat-q4"))
