"""Results never take the place of what they are made from; built-ins keep their names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cdvision
from cdvision.cli.command_line import command_line
from cdvision.errors import CdvisionError, UnsupportedTask
from cdvision.heads import registry as heads
from cdvision.package import families

TINY = Path(__file__).parent / "packages" / "test-dicm-re"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("target", ["onnx", "core", "sender"])
def test_an_export_into_the_models_own_folder_is_refused(tmp_path: Path, target: str) -> None:
    package = tmp_path / "mine"
    shutil.copytree(TINY, package)
    before = contents(package)
    result = CliRunner().invoke(
        command_line, ["export", str(package), "--to", target, str(tmp_path / "." / "mine")]
    )
    assert result.exit_code == 2
    assert "the model's own folder" in result.stderr
    assert contents(package) == before


def test_results_do_not_replace_what_is_read(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    table.write_bytes(b"not opened")
    arguments = ["analyze", str(table), "--to", str(table), "--force"]
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == 2
    assert "would replace what is read" in result.stderr
    assert table.read_bytes() == b"not opened"


def test_nobody_takes_the_place_of_what_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"cdvision.families": [("small", "no:where")], "cdvision.codecs": [("5", "no:where")]}
    monkeypatch.setattr(families, "_entries", entries.__getitem__)
    families.families.cache_clear()
    try:
        assert len(families.families()) == len(families.FAMILIES)
        with pytest.raises(families.ModelError, match="unknown codec 99"):
            families.coder_class(99)
        assert families.CODECS[5] != "no:where"
    finally:
        families.families.cache_clear()
    monkeypatch.setattr(heads, "_installed", lambda: {"distribution": "no:where"})
    with pytest.raises(AttributeError):  # the head of ours is asked, and this is no question
        heads.answer("distribution", object())  # type: ignore[arg-type]


@pytest.mark.parametrize("ask", ["dense", "latents_for", "layers_for", "features"])
def test_a_tail_that_is_not_there_is_named(ask: str) -> None:
    model = cdvision.load(TINY)
    stream = model.open(model.encode(np.zeros((64, 64, 3), np.uint8)))
    with pytest.raises(UnsupportedTask, match="has no tail 'nope': it has "):
        getattr(stream, ask)("nope")


def test_more_threads_than_any_machine_has_are_refused() -> None:
    with pytest.raises(CdvisionError, match="threads: expected 1 to 256, found 1000"):
        cdvision.load(TINY, threads=1000)


def test_a_video_that_cannot_be_read_costs_no_file(tmp_path: Path) -> None:
    pytest.importorskip("av")
    kept, broken = tmp_path / "kept.cdvs", tmp_path / "broken.mp4"
    kept.write_bytes(b"kept")
    broken.write_bytes(b"no video")
    with pytest.raises(CdvisionError):
        cdvision.encode_video(broken, kept)
    assert kept.read_bytes() == b"kept"
    with pytest.raises(CdvisionError, match="would replace the video"):
        cdvision.encode_video(broken, broken)
    assert broken.read_bytes() == b"no video"
