"""The command line: what it prints, where it writes, and how it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import cdvision
from cdvision.cli import command_line
from cdvision.cli.command_line import command_lines
from cdvision.cli.input_files import expand_inputs
from cdvision.cli.task_options import batched_options
from cdvision.image_files import PHOTO_SUFFIXES
from cdvision.package.card import SenderGraph, SenderSpec
from cdvision.package.registry import ModelInfo
from cdvision.stream import Layer, write_stream
from cdvision.tasks import Task, TaskOption

REPOSITORY = Path(__file__).parent.parent
PHOTOS = REPOSITORY / "examples" / "photos"
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(command_line, [str(part) for part in arguments], input=stdin)

    return call


@pytest.fixture
def small() -> None:
    """Need the default model, which a fresh checkout may not have yet."""
    if not (
        Path(cdvision.__file__).parent / "models" / "small" / "packages" / "small" / "model.json"
    ).exists():
        pytest.skip("`small` is not there yet")


def header_only_stream() -> bytes:
    """Return a stream that needs no model to be inspected."""
    return write_stream(
        codec=1,
        fingerprint=b"demo",
        width=640,
        height=480,
        input_width=416,
        input_height=312,
        quality=4,
        layers=[Layer(0, bytes(976))],
    )


def json_lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def error_lines(result: Result) -> list[str]:
    return result.stderr.splitlines()


def start(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "cdvision", *arguments], **options)


# --- help and usage


def test_the_table_of_commands_agrees_with_the_commands() -> None:
    for name, line in command_lines().items():
        command = command_line.get_command(click.Context(command_line), name)
        assert command is not None, name
        assert command.name == name
        assert command.help
        assert line.endswith(".")


def test_help_lists_every_command_in_the_order_of_the_work(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    listed = re.findall(r"^  (\w+)  +\w", result.stdout.split("Commands:")[1], re.MULTILINE)
    assert listed[:6] == ["encode", "segment", "detect", "classify", "attributes", "reconstruct"]
    assert listed == list(command_lines())


@pytest.mark.parametrize("name", command_lines())
def test_every_command_has_help(invoke: Invoke, name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage:")


def test_version_is_the_package_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"cdvision {cdvision.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["shout"],
        ["encode"],
        ["inspect", "--loud", "x.cdv"],
        ["detect", "--confidence", "3", "x.cdv"],
        ["encode", "--quality", "9", "x.jpg"],
        ["encode", "--task", "shout", "x.jpg"],
        ["analyze", "--task", "reconstruct", "x.cdv"],
        ["classify", "--draw", "out", "x.cdv"],
        ["encode", "-o", "-", "a.jpg", "b.jpg"],
        ["encode", "-o", "one.cdv", "a.jpg", "b.jpg"],
        ["encode", "--json", "-o", "-", "a.jpg"],
        ["detect", "--image", "a.jpg", "a.cdv"],
    ],
    ids=" ".join,
)
def test_a_usage_error_is_one_line_and_exit_2(invoke: Invoke, arguments: Sequence[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = error_lines(result)
    assert line.startswith("cdvision: ")
    assert "--help'." in line


# --- inputs


def test_folders_globs_and_names_are_expanded_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "sub/b.PNG", "sub/deep/c.webp", "notes.txt", "sub/d.cdv"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    found = expand_inputs([".", "sub/*.PNG", "a.jpg"], PHOTO_SUFFIXES)
    assert [item.name for item in found] == ["a.jpg", "sub/b.PNG", "sub/deep/c.webp"]
    assert [str(item.relative) for item in expand_inputs(["sub"], PHOTO_SUFFIXES)] == [
        "b.PNG",
        "deep/c.webp",
    ]
    assert [item.name for item in expand_inputs(["**/*.cdv"], PHOTO_SUFFIXES)] == ["sub/d.cdv"]
    assert [item.name for item in expand_inputs(["notes.txt"], PHOTO_SUFFIXES)] == ["notes.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a[1].jpg").touch()
    Path("a1.jpg").touch()
    assert [item.name for item in expand_inputs(["a[1].jpg"], PHOTO_SUFFIXES)] == ["a[1].jpg"]


# --- inspect


def test_inspect_prints_a_table(invoke: Invoke) -> None:
    Path("street.cdv").write_bytes(header_only_stream())
    result = invoke("inspect", "street.cdv")
    assert result.exit_code == 0
    assert result.stdout.startswith("street.cdv\n")
    assert "640 x 480" in result.stdout


def test_inspect_prints_json_lines(invoke: Invoke) -> None:
    stream = header_only_stream()
    Path("whole.cdv").write_bytes(stream)
    result = invoke("inspect", "--json", "whole.cdv", "-", stdin=stream[:500])
    whole, cut = json_lines(result)
    assert (whole["file"], whole["complete"], whole["size"]) == ("whole.cdv", True, len(stream))
    assert (cut["file"], cut["complete"], cut["size"]) == ("-", False, 500)


def test_bad_inputs_are_reported_and_the_others_go_on(invoke: Invoke) -> None:
    Path("empty").mkdir()
    Path("bad.cdv").write_bytes(b"no stream at all")
    Path("good.cdv").write_bytes(header_only_stream())
    result = invoke("inspect", "--json", "bad.cdv", "absent.cdv", "*.nothing", "empty", "good.cdv")
    assert result.exit_code == 2
    assert [line["file"] for line in json_lines(result)] == ["good.cdv"]
    lines = error_lines(result)
    assert [line.split(": ")[1] for line in lines] == [
        "bad.cdv",
        "absent.cdv",
        "*.nothing",
        "empty",
    ]
    assert lines[0].startswith("cdvision: bad.cdv: bad stream: magic at byte 0")


@pytest.mark.parametrize("length", [0, 1, 3, 10])
def test_a_stream_cut_inside_its_header_is_one_line(invoke: Invoke, length: int) -> None:
    result = invoke("inspect", "-", stdin=header_only_stream()[:length])
    assert result.exit_code == 2
    assert len(error_lines(result)) == 1
    assert error_lines(result)[0].startswith("cdvision: -: bad stream: ")


# --- as a process


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    for index in range(400):
        (tmp_path / f"{index}.cdv").write_bytes(header_only_stream())
    process = start("inspect", str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 1
    process.stderr.close()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_is_one_line_and_130(tmp_path: Path) -> None:
    (tmp_path / "good.cdv").write_bytes(header_only_stream())
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores it
    process = start("inspect", "--json", str(tmp_path / "good.cdv"), "-", **pipes)
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    process.stdout.readline()  # it waits for stdin next
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b"cdvision: interrupted\n"


def test_a_bad_stream_from_a_real_shell_shows_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cdvision", "inspect", "-"], input=b"x", capture_output=True
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"Traceback" not in done.stderr


# --- what the tables of tasks and of models say


def test_options_of_a_task_become_options_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    options = (
        TaskOption("least_share", 0.25, "Least share.", 0, 1, aliases=("share",)),
        TaskOption("steps", 3, "How many.", 1),
        TaskOption("loud", False, "Louder."),
        TaskOption("fast", True, "Faster."),
        TaskOption("secret", 1, "Only in Python.", batched=False),
    )
    told: dict[str, object] = {}
    task = Task("toy", "Say it.", "numpy:ndarray", "toy", options)
    command = click.Command("toy", callback=told.update, params=list(batched_options([task, task])))

    def asked(*arguments: str) -> dict[str, object]:
        told.clear()
        command.main(list(arguments), standalone_mode=False)
        return dict(told)

    defaults = {"least_share": 0.25, "steps": 3, "loud": False, "fast": True}
    assert asked() == defaults
    assert asked("--least-share", "1", "--loud") == {**defaults, "least_share": 1, "loud": True}
    assert asked("--share", "0.5", "--no-fast") == {**defaults, "least_share": 0.5, "fast": False}
    for wrong in (["--share", "1.5"], ["--steps", "0"], ["--steps", "1.5"], ["--secret", "2"]):
        with pytest.raises(click.UsageError):
            asked(*wrong)


def test_models_tells_what_each_sender_costs(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = {"image": SenderGraph((0,), multiply_adds=500_000_000), "window": SenderGraph((1,))}
    senders = {
        "full": SenderSpec({**graphs, "more": SenderGraph((2,), multiply_adds=250_000_000)}),
        "light": SenderSpec(graphs, milliseconds=8.54, measured_on="one core"),
        "new": SenderSpec({"image": SenderGraph((0,))}),
    }
    info = ModelInfo("toy", "For tests.", ("detect",), 1_500_000, Path("/toy"), 416, senders)
    monkeypatch.setattr(cdvision, "list_models", lambda: [info], raising=False)
    assert invoke("models").stdout.splitlines() == [
        "toy  1.5 MB  detect",
        "  For tests.",
        "  /toy",
        "  sender full: 0.75 GMAC at 416 x 416 pixels",
        "  sender light: 0.50 GMAC, 8.5 ms on one core at 416 x 416 pixels",
        "  sender new: cost not measured at 416 x 416 pixels",
    ]
    (record,) = json_lines(invoke("models", "--json"))
    assert record["input_size"] == 416
    assert record["senders"] == {
        "full": {"multiply_adds": 750_000_000, "milliseconds": None, "measured_on": ""},
        "light": {"multiply_adds": 500_000_000, "milliseconds": 8.54, "measured_on": "one core"},
        "new": {"multiply_adds": 0, "milliseconds": None, "measured_on": ""},
    }


# --- with the default model


@pytest.mark.usefixtures("small")
class TestWithModel:
    def test_encode_keeps_the_names_below_a_folder(self, invoke: Invoke) -> None:
        photo = Image.open(PHOTOS / "cat.jpg")
        Path("in/deep").mkdir(parents=True)
        photo.save("in/one.jpg")
        photo.save("in/deep/two.png")
        result = invoke("encode", "--json", "in", "-o", "out", "--quality", "2")
        assert result.exit_code == 0, result.stderr
        records = json_lines(result)
        assert sorted(str(record["output"]) for record in records) == [
            "out/deep/two.cdv",
            "out/one.cdv",
        ]
        for record in records:
            stream = Path(str(record["output"])).read_bytes()
            assert len(stream) == record["bytes"]
            assert cdvision.inspect(stream).quality == 2
            assert (record["width"], record["height"]) == photo.size

    def test_encode_writes_what_the_function_returns(self, invoke: Invoke) -> None:
        photo = (PHOTOS / "cat.jpg").read_bytes()
        result = invoke("encode", "-", "--quality", "3", stdin=photo)
        assert result.exit_code == 0, result.stderr
        assert result.stdout_bytes == cdvision.encode(photo, quality=3)

    def test_encode_takes_a_sender_of_the_model(self, invoke: Invoke) -> None:
        photo = (PHOTOS / "cat.jpg").read_bytes()
        first = next(iter(cdvision.load("small").card.senders))
        result = invoke("encode", "-", "--sender", first, stdin=photo)
        assert result.stdout_bytes == cdvision.encode(photo, sender=first)
        (line,) = error_lines(invoke("encode", "-", "--sender", "smoke", stdin=photo))
        assert line == f"cdvision: -: sender: expected one of {first}, found 'smoke'"

    def test_encode_replaces_nothing_unless_forced(self, invoke: Invoke) -> None:
        arguments = ["encode", str(PHOTOS / "cat.jpg"), "-o", "cat.cdv"]
        Path("cat.cdv").write_bytes(b"precious")
        refused = invoke(*arguments)
        assert refused.exit_code == 2
        assert "cat.cdv exists; --force replaces it" in refused.stderr
        assert Path("cat.cdv").read_bytes() == b"precious"
        assert invoke(*arguments, "--force").exit_code == 0
        assert Path("cat.cdv").read_bytes().startswith(b"CDV")

    def test_encode_never_writes_over_an_input_or_a_result(self, invoke: Invoke) -> None:
        image = (PHOTOS / "cat.jpg").read_bytes()
        Path("image.cdv").write_bytes(image)
        for name in ("a.jpg", "a.jpeg"):
            Path(name).write_bytes(image)
        result = invoke("encode", "--force", "image.cdv", "a.jpg", "a.jpeg")
        assert result.exit_code == 2
        over_input, over_result = error_lines(result)
        assert "never overwritten" in over_input
        assert "already holds the result of a.jpg" in over_result
        assert Path("image.cdv").read_bytes() == image
        assert sorted(os.listdir()) == ["a.cdv", "a.jpeg", "a.jpg", "image.cdv"]

    def test_encode_reports_a_file_that_is_no_image(self, invoke: Invoke) -> None:
        Path("fake.jpg").write_bytes(b"not a photo")
        result = invoke("encode", "fake.jpg")
        assert result.exit_code == 2
        (line,) = error_lines(result)
        assert line.startswith("cdvision: fake.jpg: ")
        assert not Path("fake.cdv").exists()

    def test_detect_and_classify_answer_as_the_functions_do(self, invoke: Invoke) -> None:
        bits = cdvision.encode(PHOTOS / "astronaut.jpg", quality=5)
        Path("astronaut.cdv").write_bytes(bits)
        (found,) = json_lines(invoke("detect", "--json", "--confidence", "0.2", "astronaut.cdv"))
        expected = json.loads(cdvision.detect(bits, confidence=0.2).to_json())
        assert found["detections"] == expected["detections"]
        (found,) = json_lines(invoke("classify", "--json", "--top", "3", "-", stdin=bits))
        expected = json.loads(cdvision.classify(bits, top=3).to_json())
        assert found["classes"] == expected["classes"]
        assert len(expected["classes"]) == 3

    def test_an_image_file_is_encoded_first(self, invoke: Invoke) -> None:
        photo = PHOTOS / "cat.jpg"
        (found,) = json_lines(invoke("detect", "--json", "--quality", "2", photo))
        bits = cdvision.encode(photo, quality=2)
        assert found["bytes"] == len(bits)
        expected = json.loads(cdvision.detect(bits).to_json())
        assert found["detections"] == expected["detections"]

    def test_detect_prints_a_table_for_people(self, invoke: Invoke) -> None:
        result = invoke("detect", PHOTOS / "astronaut.jpg", PHOTOS / "cat.jpg")
        assert result.exit_code == 0, result.stderr
        assert "512x512" in result.stdout
        assert "451x300" in result.stdout

    def test_one_bad_stream_does_not_stop_a_batch(self, invoke: Invoke) -> None:
        bits = cdvision.encode(PHOTOS / "cat.jpg")
        Path("good.cdv").write_bytes(bits)
        Path("bad.cdv").write_bytes(bits[:9])
        result = invoke("classify", "--json", "bad.cdv", "good.cdv")
        assert result.exit_code == 2
        assert [line["file"] for line in json_lines(result)] == ["good.cdv"]
        (line,) = error_lines(result)
        assert line.startswith("cdvision: bad.cdv: bad stream: ")

    @pytest.mark.parametrize("photo", [None, "cat.jpg"])
    def test_draw_writes_a_picture_of_the_source_size(
        self, invoke: Invoke, photo: str | None
    ) -> None:
        Path("cat.cdv").write_bytes(cdvision.encode(PHOTOS / "cat.jpg"))
        image = [] if photo is None else ["--image", str(PHOTOS / photo)]
        result = invoke("detect", "cat.cdv", "--draw", "boxes", *image)
        assert result.exit_code == 0, result.stderr
        with Image.open("boxes/cat.png") as picture:
            assert picture.size == (451, 300)

    def test_draw_refuses_another_photo(self, invoke: Invoke) -> None:
        Path("cat.cdv").write_bytes(cdvision.encode(PHOTOS / "cat.jpg"))
        other = str(PHOTOS / "astronaut.jpg")
        result = invoke("detect", "cat.cdv", "--draw", "boxes", "--image", other)
        assert result.exit_code == 2
        assert "451x300" in result.stderr
        assert not Path("boxes/cat.png").exists()

    def test_models_lists_the_default_model(self, invoke: Invoke) -> None:
        records = json_lines(invoke("models", "--json"))
        (small,) = [record for record in records if record["name"] == "small"]
        assert {"detect", "classify"} <= set(small["tasks"])
        assert Path(str(small["path"])).is_dir()
        assert small["input_size"] == 416
        assert small["senders"]["full"]["multiply_adds"] > 0
        assert "small" in invoke("models").stdout

    def test_an_unknown_model_is_one_line(self, invoke: Invoke) -> None:
        result = invoke("encode", PHOTOS, "--model", "enormous", "-o", "x")
        assert result.exit_code == 2
        assert len(error_lines(result)) == 1
        assert "enormous" in result.stderr

    def test_bench_fuzz_keeps_its_promise(self, invoke: Invoke) -> None:
        result = invoke("bench", "fuzz", "--count", "50", "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["count"] == 50
