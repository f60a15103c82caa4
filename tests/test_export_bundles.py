"""Bundles for a Jetson and for a camera: they hold what they need, install, and answer alike."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cdvision
from cdvision.cli import command_line
from cdvision.errors import CdvisionError, EngineError, ModelError

pytest.importorskip("onnx")

from safetensors import safe_open

from cdvision.export import bundle, bundle_check, bundle_install
from cdvision.export.bundle import write_receiver_bundle, write_sender_bundle
from cdvision.export.bundle_install import (
    InstallOptions,
    download_wheels,
    host_platform,
    installed_pins,
    write_install,
    write_wheel,
)
from cdvision.export.partial_package import write_receiver_package
from cdvision.export.recorded_inputs import drawn_photos, photos_in, record_inputs
from cdvision.export.tensorrt_builder import TensorrtOptions
from cdvision.export.tensorrt_profiles import ShapeRange

TESTS = Path(__file__).parent
TINY = TESTS / "packages" / "test-dicm-re"
PHOTOS = TESTS.parent / "examples" / "photos"
slow = pytest.mark.skipif(not os.environ.get("CDVISION_SLOW"), reason="set CDVISION_SLOW")
HOST = host_platform()
HOST_MACHINE = HOST.removesuffix("-linux")
OTHER_MACHINE = {"x86_64": "aarch64", "aarch64": "x86_64"}[HOST_MACHINE]


@pytest.fixture(scope="module")
def tiny() -> cdvision.Model:
    return cdvision.load(TINY, threads=1)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cdvision's wheel, which pip makes from the checkout."""
    return write_wheel(tmp_path_factory.mktemp("wheel"), platform=HOST)


@pytest.fixture(scope="module")
def receiver(tiny: cdvision.Model, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("receiver")
    options = TensorrtOptions("fp16", ShapeRange((32, 416, 416), (1, 1, 2)))
    install = InstallOptions(wheel, platform=HOST)
    write_receiver_bundle(tiny, folder, options, photos=drawn_photos()[:1], install=install)
    return folder


@pytest.fixture(scope="module")
def sender(tiny: cdvision.Model, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sender")
    write_sender_bundle(tiny, folder, install=InstallOptions(wheel, platform=HOST))
    return folder


@pytest.fixture(scope="module")
def site(receiver: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What installing the bundle's wheel lays down."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = receiver.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(site: Path, script: Path, *arguments: str, **options: Any) -> Any:
    """Run a bundle's script on the installed wheel; the checkout's cdvision is not reached."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, check=False, **options,
    )  # fmt: skip


# --- the packages


def test_each_side_holds_its_graphs_and_no_others(receiver: Path, sender: Path) -> None:
    at = {path.stem for path in (receiver / "model").glob("*.onnx")}
    assert {"answer.classifier", "answer.detector", "box.detector", "mask.detector"} <= at
    assert "encoder" not in at
    assert {path.stem for path in (sender / "model").glob("*.onnx")} == {"encoder"}


def test_weights_are_shared_out_and_none_is_lost(receiver: Path, sender: Path) -> None:
    names = {}
    for part in (receiver, sender):
        with safe_open(part / "model" / "graphs.safetensors", framework="numpy") as tensors:
            names[part] = set(tensors.keys())
    with safe_open(TINY / "weights.safetensors", framework="numpy") as tensors:
        whole = set(tensors.keys())
    assert names[receiver] | names[sender] <= whole
    assert any(name.startswith("tails.") or ".fpn." in name for name in names[receiver])
    sizes = [(part / "model" / "graphs.safetensors").stat().st_size for part in (receiver, sender)]
    assert max(sizes) < (TINY / "weights.safetensors").stat().st_size


def test_the_parts_answer_and_encode_as_the_whole(
    receiver: Path, sender: Path, tiny: cdvision.Model
) -> None:
    photo = drawn_photos()[1]
    bits = cdvision.load(sender / "model", threads=1).encode(photo)
    assert bits == tiny.encode(photo)
    part = cdvision.load(receiver / "model", threads=1)
    assert part.classify(bits) == tiny.classify(bits)
    assert part.segment(bits, confidence=0.0) == tiny.segment(bits, confidence=0.0)


def test_a_part_says_what_it_lacks(receiver: Path, sender: Path, tiny: cdvision.Model) -> None:
    part, photo = cdvision.load(receiver / "model"), drawn_photos()[0]
    with pytest.raises(ModelError, match=r"no graph 'encoder': this package holds tap\."):
        part.encode(photo)
    with pytest.raises(ModelError, match=r"no graph 'answer\.classifier': .* holds encoder$"):
        cdvision.load(sender / "model").classify(tiny.encode(photo))
    with pytest.raises(EngineError, match="whole package"):
        cdvision.load(receiver / "model", engine="torch")
    with pytest.raises(ModelError, match="nothing to receive"):
        write_receiver_package(cdvision.load(sender / "model").package, receiver / "none")


def test_a_receiver_records_its_graphs_inputs_from_streams(
    receiver: Path, tiny: cdvision.Model
) -> None:
    (stream,) = (receiver / "streams").glob("*.cdv")
    recorded = record_inputs(cdvision.load(receiver / "model"), [stream])
    expected = record_inputs(tiny, drawn_photos()[:1], [tiny.card.default_quality])
    assert recorded.keys() == expected.keys() - {"encoder"}
    for name, value in expected["answer.detector"][0].items():
        np.testing.assert_array_equal(recorded["answer.detector"][0][name], value)


# --- what a Jetson gets


def test_the_receiver_is_complete(receiver: Path) -> None:
    files = {path.relative_to(receiver).as_posix() for path in receiver.rglob("*")}
    assert {"README.md", "requirements.txt", "requirements-engines.txt", "smoke_test.py",
            "expected.json", "report.json", "model/tables.npz", "tensorrt/build_engines.sh",
            "tensorrt/fp16/answer.detector.onnx", "streams/1-drawn.cdv"} <= files  # fmt: skip
    report = json.loads((receiver / "report.json").read_text())
    assert report["target"] == "jetson"
    assert "not built here" in report["notes"]["engines"]  # they belong to the target's GPU
    assert not list(receiver.rglob("*.plan"))
    for graph in report["graphs"]:
        assert (receiver / graph["file"]).stat().st_size == graph["bytes"]
        assert graph["parity"]
    assert not {"encoder"} & {graph["graph"] for graph in report["graphs"]}
    readme = (receiver / "README.md").read_text()
    assert readme.startswith("# test-dicm-re: receiver")
    assert "$PWD" in readme
    assert "JetPack 7" in readme


def test_every_requirement_is_pinned(receiver: Path, sender: Path) -> None:
    for folder in (receiver, sender):
        *pins, wheel = (folder / "requirements.txt").read_text().splitlines()
        assert all(pin.count("==") == 1 for pin in pins)
        assert f"numpy=={np.__version__}" in pins
        assert {"onnxruntime", "flatbuffers"} <= {pin.partition("==")[0] for pin in pins}
        assert not any("torch" in pin for pin in pins)
        assert (folder / wheel).is_file()
    engines = (receiver / "requirements-engines.txt").read_text().splitlines()
    assert any(pin.startswith("onnx==") for pin in engines)
    assert not {*engines} & {*pins}


def test_pins_are_what_is_installed_and_all_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = {
        "first_one-1.0": ["Second.One>=2; python_version > '3'", "third; extra == 'more'"],
        "second_one-2.5": ["first-one", "for-another-system; sys_platform == 'win32'"],
        "third-3.0": [],
    }
    for name, texts in needs.items():
        about = tmp_path / f"{name}.dist-info"
        about.mkdir()
        package, _, version = name.partition("-")
        lines = [f"Name: {package}", f"Version: {version}", *(f"Requires-Dist: {t}" for t in texts)]
        (about / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_pins(["first_one"]) == ["first-one==1.0", "second-one==2.5"]


def test_an_offline_bundle_asks_no_index(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(bundle_install, "_pip", lambda *arguments: calls.append(arguments))
    write_install(tmp_path, InstallOptions(wheel, "3.12", HOST), ("onnx",))
    ((command, *arguments),) = calls
    assert command == "download"
    assert {f"--dest={tmp_path / 'wheels'}", "--python-version=3.12", "--only-binary=:all:",
            f"--platform=manylinux_2_28_{HOST_MACHINE}"} <= {*arguments}  # fmt: skip
    assert not any(OTHER_MACHINE in argument for argument in arguments)
    both = []
    for file in ("requirements.txt", "requirements-engines.txt"):
        index, wheels, *pins = (tmp_path / file).read_text().splitlines()
        assert (index, wheels) == ("--no-index", "--find-links wheels")
        both += [pin for pin in pins if "==" in pin]
    assert {*both} == {argument for argument in arguments if argument[0] != "-"}


@slow
def test_every_pin_has_an_aarch64_wheel(tmp_path: Path) -> None:
    """Needs the package index."""
    download_wheels(tmp_path, installed_pins(["cdvision", "onnx"])[1:], "3.12")
    assert any("aarch64" in path.name for path in tmp_path.glob("numpy-*.whl"))
    with pytest.raises(CdvisionError, match=r"pip download failed: .*no-such-package"):
        download_wheels(tmp_path, ["no-such-package-of-cdvision==1"], "3.12")


def test_pip_makes_the_wheel_from_where_cdvision_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundle_install._origin() == str(TESTS.parent)
    installed = tmp_path / "cdvision" / "export" / "bundle_install.py"  # no checkout around it
    monkeypatch.setattr(bundle_install, "__file__", str(installed))
    for recorded, origin in (
        (None, f"cdvision=={cdvision.__version__}"),
        ('{"url": "file:///nowhere/cdvision-1-py3-none-any.whl"}',
         "file:///nowhere/cdvision-1-py3-none-any.whl"),
    ):  # fmt: skip
        about = types.SimpleNamespace(read_text=lambda _, recorded=recorded: recorded)
        monkeypatch.setattr(bundle_install.metadata, "distribution", lambda _, about=about: about)
        assert bundle_install._origin() == origin
    with pytest.raises(CdvisionError, match=r"pip wheel failed: .*nowhere"):
        write_wheel(tmp_path / "bundle", platform=HOST)


def test_a_wheel_for_the_target_loses_its_models_alone(tmp_path: Path) -> None:
    version = cdvision.__version__
    source = tmp_path / f"cdvision-{version}-py3-none-linux_aarch64.whl"
    files = {
        "cdvision/api.py": "code",
        "cdvision/packages.py": "code",
        "cdvision/models/small/packages/small/model.json": "{}",
        f"cdvision-{version}.dist-info/RECORD": (
            "cdvision/api.py,sha256=a,4\ncdvision/packages.py,sha256=b,4\n"
            "cdvision/models/small/packages/small/model.json,sha256=c,2\n"
        ),
    }
    with zipfile.ZipFile(source, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    written = write_wheel(tmp_path / "bundle", source)
    assert written.name == source.name
    with zipfile.ZipFile(written) as archive:
        assert archive.namelist() == [name for name in files if "/packages/" not in name]
        record = archive.read(f"cdvision-{version}.dist-info/RECORD").decode()
    assert record == "cdvision/api.py,sha256=a,4\ncdvision/packages.py,sha256=b,4\n"
    with pytest.raises(CdvisionError, match=r"expected a wheel of cdvision .*found cdvision-0\.0-"):
        write_wheel(tmp_path, tmp_path / "cdvision-0.0-py3-none-any.whl")
    with pytest.raises(CdvisionError, match=r"expected a wheel for x86_64-linux, found .*aarch64"):
        write_wheel(tmp_path, source, "x86_64-linux")


@slow
def test_the_core_is_compiled_for_the_target(tmp_path: Path) -> None:
    """Needs the package index: zig compiles for machines that this is not."""
    for platform, machine in (("aarch64-linux", 0xB7), ("x86_64-linux", 0x3E)):
        written = write_wheel(tmp_path / platform, platform=platform)
        with zipfile.ZipFile(written) as archive:
            library = archive.read("cdvision/core/libcdv.so")
        # Bytes 18 and 19 of an ELF file name the processor.
        assert int.from_bytes(library[18:20], "little") == machine


def test_int8_of_a_bundle_is_calibrated_at_all_rates(tiny: cdvision.Model, tmp_path: Path) -> None:
    paths = bundle._calibration_streams(tiny, drawn_photos()[:2], tmp_path)
    found = [tiny.open(path.read_bytes()).header.quality for path in paths]
    card = tiny.card
    assert found == [1, 1, card.default_quality, card.default_quality, *[card.qualities] * 2]


def test_the_wheel_is_code_without_models(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for name in ("cdvision/api.py", "cdvision/py.typed", "cdvision/heads/dense_detection.py",
                 "cdvision/export/bundle.py", "cdvision/serving/page/index.html"):  # fmt: skip
        assert name in names
    assert not [name for name in names if "/packages/" in name]
    assert not [name for name in names if "__pycache__" in name]
    assert {Path(n).name for n in names if "/licenses/" in n} == {"LICENSE", "NOTICE"}


def test_the_wheel_records_every_file(site: Path) -> None:
    (about,) = site.glob("*.dist-info")
    recorded = {}
    for line in (about / "RECORD").read_text().splitlines():
        name, digest, size = line.rsplit(",", 2)
        recorded[name] = (digest, size)
    paths = [path for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files = {path.relative_to(site).as_posix(): path for path in paths}
    assert recorded.pop(f"{about.name}/RECORD") == ("", "")
    assert recorded.keys() == files.keys() - {f"{about.name}/RECORD"}
    for name, (digest, size) in recorded.items():
        content = files[name].read_bytes()
        expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert (digest, size) == (f"sha256={expected}", str(len(content)))


def test_the_smoke_test_passes_on_the_installed_wheel(receiver: Path, site: Path) -> None:
    done = run_installed(site, receiver / "smoke_test.py", text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("OK: 1 streams as expected\n")


@pytest.fixture
def record(receiver: Path) -> dict[str, Any]:
    expected = json.loads((receiver / "expected.json").read_text())
    (found,) = expected["streams"]
    assert found["answers"]["segment"]
    assert found["answers"]["classify"]
    return dict(found)


def faults(receiver: Path, record: dict[str, Any]) -> str:
    model = cdvision.load(receiver / "model", threads=1)
    stream = model.open((receiver / "streams" / record["file"]).read_bytes())
    return "; ".join(bundle_check.faults_of(stream, record, {"confidence": 0.1, "top": 5}))


def test_the_smoke_test_finds_other_answers(receiver: Path, record: dict[str, Any]) -> None:
    assert faults(receiver, record) == ""
    assert "not exact" in faults(receiver, {**record, "latents_sha256": "0" * 64})
    answers = record["answers"]
    box, *others = sorted(answers["segment"], key=lambda row: -row["confidence"])

    def with_box(shift: float) -> str:
        moved = {**box, "left": box["left"] + shift}
        return faults(receiver, {**record, "answers": {"segment": [moved, *others]}})

    assert "missing" in with_box(5.0)
    assert "unexpected" in with_box(5.0)
    assert with_box(1.0) == ""
    sure = [{**row, "probability": 1.0} for row in answers["classify"]]
    assert "probability 1.0" in faults(receiver, {**record, "answers": {"classify": sure}})


# --- what a camera gets


def test_the_camera_writes_the_streams_of_the_whole_model(
    sender: Path, site: Path, tiny: cdvision.Model, tmp_path: Path
) -> None:
    photos, streams = tmp_path / "photos", tmp_path / "streams"
    (photos / "inner").mkdir(parents=True)
    Image.fromarray(drawn_photos()[0]).save(photos / "inner" / "a.png")
    (photos / "b.png").write_bytes(b"no picture")
    arguments = (str(photos), str(streams), "--quality", "2")
    done = run_installed(site, sender / "send.py", *arguments, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("b: ")
    (path,) = streams.rglob("*.cdv")
    assert path == streams / "inner" / "a.cdv"
    assert path.read_bytes() == tiny.encode(drawn_photos()[0], 2)


def test_the_camera_reads_frames(
    sender: Path, site: Path, tiny: cdvision.Model, tmp_path: Path
) -> None:
    frames = drawn_photos()[:1] * 2
    height, width = frames[0].shape[:2]
    arguments = ("-", str(tmp_path), "--frame", f"{width}x{height}")
    content = b"".join(frame.tobytes() for frame in frames) + b"cut"
    done = run_installed(site, sender / "send.py", *arguments, input=content)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "frame-000001.cdv", "frame-000002.cdv",
    ]  # fmt: skip
    assert (tmp_path / "frame-000002.cdv").read_bytes() == tiny.encode(frames[1])
    done = run_installed(site, sender / "send.py", "-", str(tmp_path))
    assert done.returncode == 2
    assert b"--frame" in done.stderr


# --- the command


def test_the_command_writes_a_sender(wheel: Path, tmp_path: Path) -> None:
    arguments = ["export", str(TINY), "--to", "sender", str(tmp_path), "--wheel", str(wheel)]
    arguments += ["--platform", HOST]
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "send.py").is_file()
    assert (tmp_path / wheel.name).is_file()
    result = CliRunner().invoke(command_line, [*arguments, "--weights", "fp16"])
    assert result.exit_code == 2
    assert "as it is" in result.stderr


@slow
def test_a_receivers_environment_has_no_torch_and_answers_identically(tmp_path: Path) -> None:
    """Builds an environment from the bundle's list; needs the package index."""
    bundle, environment = tmp_path / "bundle", tmp_path / "env"
    arguments = ["export", "small", "--to", "jetson", str(bundle), "--photos", str(PHOTOS)]
    arguments += ["--platform", HOST]
    assert CliRunner().invoke(command_line, arguments).exit_code == 0
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = [str(environment / "bin" / "python"), "-E"]  # no PYTHONPATH of ours
    pip = [*python, "-m", "pip", "install", "-q", "-r", "requirements.txt"]
    subprocess.run(pip, cwd=bundle, check=True)
    script = tmp_path / "answers.py"
    shutil.copy(TESTS / "receiver_answers.py", script)
    here, there = (
        json.loads(subprocess.run(
            [*interpreter, str(script), str(bundle), *map(str, model)],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        ).stdout)
        for interpreter, model in (([sys.executable], ["small"]), (python, [bundle / "model"]))
    )  # fmt: skip
    assert there["torch"] is False
    assert there["cdvision"].startswith(str(environment))
    assert len(here["answers"]) == len(photos_in(PHOTOS))
    assert there["answers"] == here["answers"]
    done = subprocess.run([*python, str(bundle / "smoke_test.py")], check=False)
    assert done.returncode == 0
