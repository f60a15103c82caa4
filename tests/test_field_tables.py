"""Cells, tars and folders of tables as pipelines have them: one record's error, nothing lost."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cdvision
from cdvision.cli.command_line import command_line
from cdvision.errors import CdvisionError
from cdvision.evaluation.photo_files import TarFiles
from cdvision.pipelines.cells import PADDED, STRIPPED, cell_bytes, cell_stream, is_missing
from cdvision.pipelines.sources import read_source, read_sources

PHOTO = (Path(__file__).parent.parent / "examples" / "photos" / "cat.jpg").read_bytes()


@pytest.fixture(scope="module")
def bits(model: cdvision.Model) -> bytes:
    return model.encode(PHOTO, 1)


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (None, "no value"),
        (float("nan"), "no value"),
        (np.float64("nan"), "no value"),
        ("/no/such/file", "str; a path is not read here"),
        ({"bytes": PHOTO}, "dict; name the field"),
        (7, "int"),
        ([1, 2], "list"),
        (np.zeros(3), "ndarray"),
    ],
)
def test_a_cell_that_holds_no_file_is_its_own_error(cell: Any, found: str) -> None:
    error = cell_bytes(cell, "bytes")
    assert isinstance(error, CdvisionError)
    assert f"bytes: expected the bytes of a file, found {found}" in str(error)


def test_cells_of_bytes_in_any_form_are_taken() -> None:
    for cell in (b"x", bytearray(b"x"), memoryview(b"x"), np.bytes_(b"x")):
        assert cell_bytes(cell, "bytes") == b"x"
    pandas = pytest.importorskip("pandas")
    assert is_missing(pandas.NA)
    assert is_missing(pandas.NaT)


class TestBatches:
    @pytest.fixture(autouse=True)
    def _arrow(self) -> None:
        pytest.importorskip("pyarrow")

    @pytest.mark.parametrize("cell", [None, float("nan"), "/no/such/file", {"bytes": b""}])
    def test_one_bad_photo_costs_no_batch(self, cell: Any) -> None:
        from cdvision.pipelines.batches import PhotoEncoder

        encode = PhotoEncoder(quality=1)
        for keys in (["a", "b", "c"], [None, float("nan"), 7]):
            batch = {"path": keys, "bytes": [cell, bytearray(PHOTO), PHOTO]}
            first, *others = encode(batch).to_pylist()
            assert "expected the bytes of a file" in first["error"]
            assert (first["stream"], first["photo_bytes"]) == (None, None)
            assert [row["error"] for row in others] == [None, None]
            assert others[0]["stream"] == others[1]["stream"]
        assert [row["key"] for row in encode(batch).to_pylist()] == ["0", "1", "7"]

    @pytest.mark.parametrize("cell", [None, float("nan"), "/no/such/file", {"bytes": b""}])
    def test_one_bad_stream_costs_no_batch(self, cell: Any, bits: bytes) -> None:
        from cdvision.pipelines.batches import StreamPredictor

        predict = StreamPredictor(tasks="detect")
        rows = predict({"key": ["a", None], "stream": [cell, bytearray(bits)]}).to_pylist()
        assert "expected the bytes of a file" in rows[0]["error"]
        assert (rows[1]["key"], rows[1]["error"]) == ("1", None)

    def test_options_out_of_range_are_refused_when_the_encoder_is_made(self) -> None:
        from cdvision.pipelines.batches import PhotoEncoder, StreamPredictor

        for wrong in ({"quality": 9}, {"quality": True}, {"size": 100}, {"size": 416.0}):
            with pytest.raises(CdvisionError, match=r"(quality|size): expected"):
                PhotoEncoder(**wrong)
        for wrong in ({"confidence": 30}, {"confidence": float("nan")}, {"batch_size": 0.5}):
            with pytest.raises(CdvisionError, match=r"(confidence|batch_size): expected"):
                StreamPredictor(**wrong)

    def test_a_column_of_fixed_width_that_lost_zeros_says_so(self, bits: bytes) -> None:
        from cdvision.pipelines.batches import StreamPredictor

        cut = bits[:-1] + b"\0"  # as if the checksum ended with a zero
        column = np.array([bits, cut])
        assert column.dtype.kind == "S"
        assert len(column[1]) == len(cut) - 1
        whole, broken = StreamPredictor()({"key": ["a", "b"], "stream": column}).to_pylist()
        assert whole["error"] is None
        assert STRIPPED in broken["error"]

    def test_cells_of_fixed_size_binary_say_so(self, bits: bytes, tmp_path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from cdvision.pipelines.batches import StreamPredictor

        column = pa.array([bits + b"\0" * 3], pa.binary(len(bits) + 3))
        table = pa.table({"key": ["a"], "stream": column})
        assert PADDED in StreamPredictor()(table).to_pylist()[0]["error"]
        pq.write_table(table, tmp_path / "t.parquet")
        ((_, error),) = read_source(tmp_path / "t.parquet")
        assert PADDED in str(error)

    def test_a_folder_of_parquet_parts_is_read(self, bits: bytes, tmp_path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = tmp_path / "streams"
        (place / "_temporary").mkdir(parents=True)
        for part in (0, 1):
            table = pa.table({"key": [f"{part}a", None], "stream": [bits, bits]})
            pq.write_table(table, place / f"part-{part}.PARQUET")
        (place / "_SUCCESS").write_text("")
        (place / "_temporary" / "half.parquet").write_bytes(b"half")
        (place / ".part-0.parquet").write_bytes(b"half")
        (place / "more.cdv").write_bytes(bits)
        assert [key for key, _ in read_source(place)] == ["more.cdv", "0a", "1", "1a", "1"]
        (place / "_temporary" / "half.parquet").rename(place / "sub.parquet")
        with pytest.raises(CdvisionError, match=r"sub\.parquet: expected a Parquet file"):
            list(read_source(place))


def test_a_stream_of_a_plain_column_may_be_cut(bits: bytes) -> None:
    assert cell_stream(bits[:-1], "stream", None) == bits[:-1]
    assert isinstance(cell_stream(bits[:-1], "stream", STRIPPED), CdvisionError)
    assert isinstance(cell_stream(b"no stream", "stream", STRIPPED), CdvisionError)


def write_tar(path: Path, members: dict[str, bytes | str], mode: str = "w") -> Path:
    """Write a tar; a text is a link, hard where it stands alone, symbolic behind an arrow."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                info.linkname = content.removeprefix("->")
                tar.addfile(info)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_links_and_upper_case_members_of_a_tar_are_read(
    tmp_path: Path, bits: bytes, mode: str
) -> None:
    suffix = mode.replace("w", ".TAR").replace(":", ".")
    streams: dict[str, bytes | str] = {"0.cdv": bits, "1.CDV": bits}
    links = {"2.cdv": "0.cdv", "3.cdv": "->0.cdv", "4.cdv": "->5.cdv", "5.cdv": "->4.cdv"}
    members = {**streams, **links, "6.cdv": "->nowhere", "x.json": b"{}"}
    read = list(read_source(write_tar(tmp_path / f"w{suffix}", members, mode)))
    assert [key for key, _ in read] == [f"{n}.{'CDV' if n == 1 else 'cdv'}" for n in range(7)]
    assert [content == bits for _, content in read] == [True] * 4 + [False] * 3
    assert all("cannot be read from this tar" in str(error) for _, error in read[4:])


def test_photos_of_a_tar_may_be_links(tmp_path: Path) -> None:
    files = TarFiles(write_tar(tmp_path / "p.tar", {"a.jpg": PHOTO, "b.jpg": "a.jpg"}))
    assert files.names() == ["a.jpg", "b.jpg"]
    assert files.read("b.jpg") == PHOTO
    broken = TarFiles(write_tar(tmp_path / "q.tar", {"a.jpg": PHOTO, "b.jpg": "gone.jpg"}))
    with pytest.raises(CdvisionError, match=r"no photo b\.jpg"):
        broken.read("b.jpg")


@pytest.mark.parametrize("command", ["analyze", "encode", "detect"])
def test_a_tar_of_photos_is_refused_in_one_line(tmp_path: Path, command: str) -> None:
    path = write_tar(tmp_path / "photos.tar", {"a.jpg": PHOTO, "b.jpg": PHOTO})
    done = CliRunner().invoke(command_line, [command, str(path)])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "photos.tar" in line
    assert ("it holds 2 .jpg" in line) or ("a tar" in line)


def test_one_source_may_stand_alone(tmp_path: Path, bits: bytes) -> None:
    path = write_tar(tmp_path / "w.tar", {"0.cdv": bits})
    assert [key for key, _ in read_sources(str(path))] == ["0.cdv"]
    assert [key for key, _ in read_sources(path)] == ["0.cdv"]
