"""Files and folders as people have them: broken links, odd names, full disks, closed streams."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import cdvision
from cdvision.analysis import AnalysisResult
from cdvision.cli.input_files import expand_inputs
from cdvision.errors import CdvisionError
from cdvision.image_files import PLUGINS, photo_suffixes
from cdvision.pipelines.sinks import Sink, write_results
from cdvision.pipelines.sources import read_source, read_sources
from cdvision.texts import printable, several
from cdvision.whole_files import check_writable, list_folder, part_of, write_whole

CDVISION = Path(sys.executable).with_name("cdvision")
PHOTO = Path(__file__).parent.parent / "examples" / "photos" / "cat.jpg"
LATIN_1 = os.fsdecode(b"caf\xe9")  # a name as old archives have it


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one photo and its stream, which is the current one."""
    shutil.copy(PHOTO, tmp_path / "ok.jpg")
    (tmp_path / "ok.cdv").write_bytes(cdvision.encode(PHOTO, 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(
    *arguments: str | bytes, behind: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell would; ``behind`` it stands a redirection, say."""
    command: list[str | bytes] = [str(CDVISION), *arguments]
    if behind:
        words = " ".join(f"'{os.fsdecode(word)}'" for word in command)
        command = ["bash", "-c", f"{words} {behind}"]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                          env=environment, check=False)  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = done.stderr.splitlines()
    assert line.startswith("cdvision: ")
    return line


@pytest.mark.parametrize("command", ["analyze", "detect", "inspect"])
def test_a_link_that_leads_nowhere_is_one_record(folder: Path, command: str) -> None:
    (folder / "ok.jpg").unlink()
    (folder / "zz.cdv").symlink_to("/nowhere/x.cdv")
    (folder / "loop.cdv").symlink_to("loop.cdv")
    extra = ["--to", "r.jsonl"] if command == "analyze" else ["--json"]
    for place in ("*.cdv", "."):
        done = run(command, place, *extra, *(["--force"] if command == "analyze" else []))
        assert done.returncode == 2
        told = (folder / "r.jsonl").read_text() if command == "analyze" else done.stdout
        lines = [json.loads(line) for line in told.splitlines()]
        assert len([line for line in lines if "error" not in line]) == 1
        both = told + done.stderr
        assert "zz.cdv" in both
        assert "loop.cdv" in both


def test_a_loop_of_links_is_one_bad_input_of_encode(folder: Path) -> None:
    (folder / "loop.jpg").symlink_to("loop.jpg")
    done = run("encode", "ok.jpg", "loop.jpg", "-o", "o/")
    assert done.returncode == 2
    assert "loop.jpg: Too many levels of symbolic links" in one_line(done)
    assert (folder / "o" / "ok.cdv").exists()


@pytest.mark.parametrize("command", ["detect", "encode", "analyze", "inspect", "reconstruct"])
@pytest.mark.usefixtures("folder")
def test_an_over_long_argument_is_one_line(command: str) -> None:
    done = run(command, "n" * 300)
    assert done.returncode == 2
    one_line(done)


@pytest.mark.usefixtures("folder")
def test_an_over_long_output_is_one_line() -> None:
    one_line(run("encode", "ok.jpg", "-o", f"{'n' * 300}.cdv"))
    one_line(run("analyze", "ok.cdv", "--to", f"{'n' * 300}.jsonl"))


@pytest.mark.usefixtures("folder")
def test_closed_stdin_and_stdout() -> None:
    done = run("detect", "-", behind="<&-")
    assert done.returncode == 2
    assert "stdin is closed" in one_line(done)
    assert run("encode", "ok.jpg", "-o", "new.cdv", behind=">&-").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "ok.cdv"),
        ("detect", "ok.cdv"),
        ("inspect", "ok.cdv", "--json"),
        ("encode", "ok.jpg", "-o", "-"),
        ("models",),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_full_disk_behind_stdout_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, behind="> /dev/full")
    assert done.returncode == 2
    assert "No space left on device" in one_line(done)


@pytest.mark.usefixtures("folder")
def test_a_full_disk_behind_a_file_is_one_line_that_names_it() -> None:
    for suffix in ("jsonl", "csv", "json", "parquet"):
        limited = ["bash", "-c", f"ulimit -f 0; {CDVISION} analyze ok.cdv --to s.{suffix}"]
        told = subprocess.run(limited, capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert f"s.{suffix} cannot be written: " in one_line(told)
        assert "File too large" in one_line(told)


def result(number: int) -> AnalysisResult:
    return AnalysisResult(number, error=CdvisionError("x" * 200), key=f"{number}.cdv", size=1)


def test_results_before_a_full_disk_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink(tmp_path / "r.jsonl")

    def full(one: AnalysisResult) -> bool:
        raise OSError(28, "No space left on device")

    def write() -> None:
        with sink:
            for one in map(result, range(4)):
                sink.write(one)
            monkeypatch.setattr(sink._writer, "write", full)
            sink.write(result(4))

    with pytest.raises(CdvisionError, match=r"r\.jsonl cannot be written: No space left"):
        write()
    assert sink.partial == tmp_path / "r.partial.jsonl"
    assert len(sink.partial.read_text().splitlines()) == 4
    assert sorted(tmp_path.iterdir()) == [sink.partial]


def test_an_interrupt_keeps_what_was_answered(tmp_path: Path) -> None:
    def stops() -> Iterator[AnalysisResult]:
        yield result(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(stops(), tmp_path / "r.csv")
    assert len((tmp_path / "r.partial.csv").read_text().splitlines()) == 2


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "r.jsonl", Path("/proc/nothing/r.jsonl")):
        with pytest.raises(CdvisionError, match="cannot be written"):
            Sink(path)
        with pytest.raises(CdvisionError, match="cannot be written"):
            check_writable(path)
        with pytest.raises(CdvisionError, match="cannot be written"):
            write_whole(path, b"x")


def test_a_name_as_long_as_a_file_system_takes_is_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 251}.cdv"
    write_whole(path, b"x")
    assert path.read_bytes() == b"x"
    assert len(part_of(path).name) < 255


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json", "parquet"])
def test_names_that_are_no_utf_8_are_written_escaped(
    tmp_path: Path, model: cdvision.Model, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    place = tmp_path / "in"
    place.mkdir()
    (place / f"{LATIN_1}.cdv").write_bytes(cdvision.encode(PHOTO, 1))
    (place / f"{LATIN_1}-gone.cdv").symlink_to("nowhere")
    path = tmp_path / f"r.{suffix}"
    written = write_results(model.analyze(read_sources([place])), path)
    assert (written.results, written.errors) == (2, 1)
    if suffix == "jsonl":
        keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
        assert sorted(keys) == ["caf\\xe9-gone.cdv", "caf\\xe9.cdv"]


@pytest.mark.parametrize("encoding", ["utf-8:strict", "cp1252"])
def test_names_print_on_any_console(folder: Path, encoding: str) -> None:
    name = f"写真naïve😀{LATIN_1}"
    shutil.copy(folder / "ok.cdv", folder / f"{name}.cdv")
    file = os.fsencode(f"{name}.cdv")
    for arguments in (["detect"], ["detect", "--json"], ["inspect"], ["analyze"]):
        done = run(*arguments, file, PYTHONIOENCODING=encoding)
        assert done.returncode == 0
        if arguments[-1] in ("--json", "analyze"):
            told = json.loads(done.stdout)
            assert printable(f"{name}.cdv") in (told.get("file"), told.get("key"))


def test_what_a_folder_holds_and_is_skipped_is_said(folder: Path) -> None:
    (folder / "ok.cdv").unlink()
    place = folder / "p"
    place.mkdir()
    for name in ("b.jfif", "c.JPE"):
        shutil.copy(PHOTO, place / name)
    from PIL import Image

    Image.open(PHOTO).save(place / "d.ppm")
    (place / "scan.cr2").write_bytes(b"raw")
    (place / "notes.txt").write_text("x")
    (place / "away").symlink_to(folder)
    done = run("encode", "p", "-o", "o")
    assert done.returncode == 0
    assert one_line(done) == (
        "cdvision: p: 2 skipped: 1 .txt, 1 .cr2; away: a link to a folder, not followed"
    )
    assert sorted(path.name for path in (folder / "o").iterdir()) == ["b.cdv", "c.cdv", "d.cdv"]


def test_heic_tells_which_package_reads_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(16))
    with pytest.raises(cdvision.ImageError, match="pillow-heif"):
        cdvision.encode(folder / "IMG_1.HEIC")
    monkeypatch.setattr("cdvision.image_files.find_spec", lambda name: None)
    photo_suffixes.cache_clear()
    assert ".heic" not in photo_suffixes()
    expand_inputs([str(folder)], photo_suffixes())
    photo_suffixes.cache_clear()
    assert "pip install pillow-heif" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(cdvision.ImageError, match="this format needs pillow-heif: pip install"):
        cdvision.encode((folder / "IMG_1.HEIC").read_bytes())


def test_heic_photos_are_read_where_their_package_is(folder: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    heif.from_pillow(Image.open(PHOTO)).save(folder / "a.heic")
    assert set(photo_suffixes()) >= set(PLUGINS) - {".jxl"}
    assert [item.name for item in expand_inputs(["a.heic"], photo_suffixes())] == ["a.heic"]
    assert "cat" in cdvision.detect(cdvision.encode(folder / "a.heic", 6)).class_name


@pytest.mark.parametrize(
    "arguments",
    [("encode", ""), ("encode", "ok.jpg", "-o", ""), ("analyze", ""), 
     ("detect", "ok.cdv", "--draw="), ("eval", "--images", "")],
)  # fmt: skip
def test_an_empty_argument_is_an_error(folder: Path, arguments: tuple[str, ...]) -> None:
    before = sorted(folder.iterdir())
    done = run(*arguments)
    assert done.returncode == 2
    assert "expected no empty argument" in one_line(done)
    assert sorted(folder.iterdir()) == before


def test_an_empty_path_is_an_error_in_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(cdvision.ImageError, match="found an empty text"):
        cdvision.encode("")
    monkeypatch.chdir(Path(cdvision.__file__).parent / "models" / "small" / "packages" / "small")
    with pytest.raises(cdvision.ModelError, match="no model ''"):
        cdvision.load("")
    with pytest.raises(CdvisionError, match="found an empty text"):
        list(read_source(""))


def test_encoding_a_folder_again_leaves_what_is_there(folder: Path) -> None:
    before = (folder / "ok.cdv").stat().st_mtime_ns
    shutil.copy(PHOTO, folder / "new.jpg")
    done = run("encode", ".", "--skip-existing")
    assert done.returncode == 0
    assert one_line(done) == "cdvision: 1 have their stream already"
    assert (folder / "ok.cdv").stat().st_mtime_ns == before
    assert (folder / "new.cdv").exists()
    assert run("encode", ".", "--skip-existing").returncode == 0
    assert run("encode", ".", "--skip-existing", "--force").returncode == 2
    assert run("encode", ".").returncode == 2


def test_a_folder_that_nobody_may_read_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: cdvision.Model
) -> None:
    (folder / "shut").mkdir()
    scandir = os.scandir

    def refuses(path: str) -> Iterator[os.DirEntry[str]]:
        if "shut" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    assert [why for _, why in list_folder(folder).unread] == ["Permission denied"]
    _, (key, error) = read_source(folder)
    assert key.endswith("shut")
    assert "Permission denied" in str(error)
    names = [item.name for item in expand_inputs([str(folder)], photo_suffixes())]
    assert [name.rpartition("/")[2] for name in names] == ["ok.jpg", "shut"]


def test_one_name_stands_for_itself() -> None:
    assert several("detect") == ("detect",)
    assert several(Path("a")) == (Path("a"),)
    assert several(["a", "b"]) == ("a", "b")
    assert printable("plain") == "plain"
    assert printable("\ud800").isascii()
    assert np.array([printable(LATIN_1)]).astype("S")[0] == b"caf\\xe9"


def test_a_name_with_control_characters_stays_on_one_line(folder: Path) -> None:
    assert one_line(run("detect", "two\nlines\x1b[2J.cdv")).startswith(
        "cdvision: two\\nlines\\x1b[2J.cdv: no such file"
    )
    (folder / "p\nq").mkdir()
    (folder / "p\nq" / "x.cr2").write_text("")
    assert "p\\nq: 1 skipped" in run("encode", "p\nq").stderr


def test_an_answer_is_told_although_its_picture_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    done = run("detect", "ok.cdv", "--draw", "file/below", "--json")
    assert done.returncode == 2
    assert "file/below/ok.png" in one_line(done)
    (folder / "pictures").mkdir()
    full = run("detect", "ok.cdv", "--json", "--draw", "pictures", behind="; true")
    assert json.loads(full.stdout)["file"] == "ok.cdv"


def test_a_folder_without_the_right_to_write_is_refused_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cdvision.cli.output_files import OutputError, OutputFiles

    (item,) = expand_inputs(["ok.jpg"], photo_suffixes())
    outputs = OutputFiles([item], suffix=".cdv", folder=folder / "new" / "deep")
    assert outputs.check(item) == folder / "new" / "deep" / "ok.cdv"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"ok\.cdv cannot be written: no right to write into"):
        outputs.check(item)
