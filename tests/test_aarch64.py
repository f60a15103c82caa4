"""The proof on another processor: its cases here, and emulated where CDVISION_SLOW asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

HERE = Path(__file__).parent / "aarch64"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(HERE / "make_cases.py"), str(folder)], check=True)
    return folder


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "check_cases.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_cases_are_all_golden_streams_and_all_codecs(cases: Path) -> None:
    streams = {path.relative_to(cases).as_posix() for path in cases.glob("*/*.cdv")}
    golden = {path.name for path in (HERE.parent / "golden").glob("*.cdv")}
    assert golden
    assert golden <= {Path(name).name for name in streams if name.startswith("golden-")}
    packages = [path.name for path in (HERE.parent / "packages").glob("test-*")]
    assert len(packages) >= 2
    for model in ("small", *packages):
        assert {f"{model}/q{quality}.cdv" for quality in (1, 4, 8)} <= streams


def test_the_check_passes_here_and_finds_what_differs(cases: Path) -> None:
    done = check(cases)
    assert done.returncode == 0, done.stdout + done.stderr
    case = cases / "test-dicm" / "q4.npz"
    with np.load(case) as arrays:
        latents = dict(arrays)
    symbols = latents["symbols"]
    symbols.flat[np.flatnonzero(symbols)[0]] *= -1
    np.savez(case, **latents)
    done = check(cases)
    assert done.returncode == 1
    assert "test-dicm/q4.cdv: decodes to other latents" in done.stdout
    assert "encode to other bytes" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 of ")


@pytest.mark.skipif(not os.environ.get("CDVISION_SLOW"), reason="set CDVISION_SLOW: minutes")
@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="needs qemu-user-static")
@pytest.mark.timeout(1800)
def test_an_emulated_aarch64_reproduces_everything() -> None:
    done = subprocess.run([sys.executable, str(HERE / "emulate.py")], check=False)
    assert done.returncode == 0
