"""The edge-to-cloud example runs from photo to query, where a broker is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "edge_to_cloud" / "run.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edge_to_cloud_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_three_photos_go_from_the_camera_to_the_query(tmp_path: Path, example: ModuleType) -> None:
    if (problem := example.missing()) is not None:
        pytest.skip(problem)
    table = tmp_path / "detections.parquet"
    command = [sys.executable, SCRIPT, "--count", "3", "--to", table]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sent 000") == 3
    assert "3 photos (3 different, 0 errors)" in done.stdout
    assert table.is_file()


def test_what_is_missing_is_said_in_one_line(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "MODULES", {"no_such_module": "no-such-package"})
    assert example.missing() == "needs no-such-package: pip install 'cdvision[edge]'"
    monkeypatch.setattr(example, "MODULES", {})
    monkeypatch.setattr(example, "broker_program", lambda: None)
    assert "apt-get install mosquitto" in example.missing()
