"""`cdvision export --to core`: what is written, and what is refused in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_coders import small_hyperprior

import cdvision
from cdvision.cli import command_line
from cdvision.core.codecs import fingerprint_of, new_codec
from cdvision.errors import ModelError
from cdvision.export.core_codec import codec_bytes, write_core

PACKAGES = Path(__file__).parent / "packages"
FOREIGN = ("hsc", "test-dicm", "test-hsc", "test-sfic-style")  # slices and checkerboards


def exported(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command_line, ["export", *map(str, arguments)])


def named(model: str) -> str:
    return str(PACKAGES / model) if (PACKAGES / model).is_dir() else model


def test_a_vector_and_a_map_are_written(tmp_path: Path) -> None:
    result = exported("small", "--to", "core", tmp_path / "new", "--json")
    assert result.exit_code == 0, result.stderr
    data = (tmp_path / "new" / "codec.cdvc").read_bytes()
    model = cdvision.load("small")
    report = json.loads(result.stdout)
    assert report["layers"] == {"0": "vector", "1": "map"}
    assert report["bytes"] == len(data)
    assert (Path(report["folder"]) / "cdv.h").is_file()
    assert data[:4] + data[12:16] == b"CDVC" + model.package.coder.fingerprint[:4]
    assert struct.unpack("<2I", data[4:12]) == (1, model.card.codec)
    assert fingerprint_of(new_codec(data)) == model.package.coder.fingerprint[:4]


def test_the_report_says_how_to_link(tmp_path: Path) -> None:
    text = str(write_core(cdvision.load(named("test-dicm-re")), tmp_path))
    assert "layers 0 (map)" in text
    assert "-lcdv" in text


@pytest.mark.parametrize("model", FOREIGN)
def test_other_coders_are_refused_in_one_line(model: str, tmp_path: Path) -> None:
    result = exported(named(model), "--to", "core", tmp_path / "new")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"model {model!r}: expected layers that the native core decodes" in result.stderr
    assert not (tmp_path / "new").exists()


def test_there_are_no_weights_to_choose(tmp_path: Path) -> None:
    result = exported("small", "--to", "core", tmp_path, "--weights", "fp16")
    assert result.exit_code == 2
    assert "leave --weights out" in result.stderr


def test_a_map_needs_a_stride() -> None:
    with pytest.raises(ModelError, match="expected the stride of a map, found none"):
        codec_bytes(small_hyperprior(), 1, None)


def test_what_the_core_would_not_read_is_not_written() -> None:
    with pytest.raises(ModelError, match=r"codec\.cdvc: expected what cdv\.h reads"):
        codec_bytes(small_hyperprior(), 1, 65)
