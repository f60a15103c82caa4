"""What importing costs, and that the installed package is the whole package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "PIL.Image", "scipy",
         "pandas", "supervision", "matplotlib", "cv2", "click", "tqdm", "safetensors")  # fmt: skip
# Also numpy's own children, which only some of its users need.
SLACK_SECONDS = 0.15


def report_of(code: str) -> object:
    """Run code in a fresh interpreter and return the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    return json.loads(done.stdout)


def loaded_after(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"
    modules = report_of(code)
    assert isinstance(modules, list)
    return set(modules)


def seconds_of(statement: str) -> float:
    """Return the least of five times: what the statement costs, not what the machine does."""
    code = f"import time\ns = time.perf_counter()\n{statement}\nprint(time.perf_counter() - s)"
    times = [report_of(code) for _ in range(5)]
    return min(float(str(value)) for value in times)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import cdvision").isdisjoint(HEAVY)


def test_reading_a_header_needs_no_network_and_no_coder() -> None:
    statement = "import cdvision\ntry: cdvision.inspect(b'')\nexcept cdvision.CdvisionError: pass"
    assert loaded_after(statement).isdisjoint(("torch", "onnxruntime", "PIL.Image"))


@pytest.mark.parametrize(
    ("model", "questions", "stream"),
    [
        ("small", "detect() segment() classify()", "cat-q4.cdv"),
        ("faces", "attributes() reconstruct()", "hsc-q4.cdv"),
    ],
)
def test_answers_load_no_part_of_a_family_but_its_receiver(
    model: str, questions: str, stream: str
) -> None:
    bits = REPOSITORY / "tests" / "golden" / stream
    statement = f"import cdvision\nstream = cdvision.open(open({str(bits)!r}, 'rb').read())\n"
    loaded = loaded_after(statement + "\n".join(f"stream.{one}" for one in questions.split()))
    family = {name for name in loaded if name.startswith("cdvision.models.")}
    receiver = f"cdvision.models.{model}.receiver"
    assert receiver in family
    assert {name for name in family if not name.startswith(receiver)} == {
        receiver.removesuffix(".receiver")
    }
    unwanted = (
        "networks",
        "training",
        "building",
        "fitting",
        "evaluation",
        "bench",
        "export",
        "cli",
    )
    assert not [n for n in loaded if n.startswith(tuple(f"cdvision.{one}" for one in unwanted))]
    assert loaded.isdisjoint(("torch", "onnx"))


def test_importing_the_package_costs_little_beside_numpy() -> None:
    assert seconds_of("import cdvision") <= seconds_of("import numpy") + SLACK_SECONDS


def test_help_and_version_load_neither_numpy_nor_a_command() -> None:
    for option in ("--help", "--version"):
        statement = (
            "import io, contextlib\nfrom cdvision.cli import command_line\n"
            "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
            f"    command_line(['{option}'])"
        )
        loaded = loaded_after(statement)
        assert loaded.isdisjoint({"numpy", "tqdm", "cdvision.cli.streams", "cdvision.cli.answer"})


def test_every_name_in_all_can_be_had() -> None:
    statement = "import cdvision; [getattr(cdvision, name) for name in cdvision.__all__]"
    assert "cdvision" in loaded_after(statement)


def test_no_module_hides_a_public_function() -> None:
    """A folder ``cdvision/fit`` would replace ``cdvision.fit`` once something in it is imported."""
    import cdvision

    modules = {path.stem for path in (REPOSITORY / "cdvision").iterdir()} | {"heads", "export"}
    assert not modules & set(cdvision.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import cdvision

    with pytest.raises(AttributeError, match="no_such_name"):
        cdvision.no_such_name  # noqa: B018


def test_pyproject_lists_every_package_folder() -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (REPOSITORY / "cdvision").rglob("*.py")}
    names = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    for top in ("heads", "export"):
        below = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / top).rglob("*.py")}
        names |= {"cdvision." + ".".join(folder.parts) for folder in below}
        assert settings["package-dir"][f"cdvision.{top}"] == top
    assert set(settings["packages"]) == names


def test_every_package_folder_has_a_docstring() -> None:
    for top in ("cdvision", "heads", "export"):
        for folder in {path.parent for path in (REPOSITORY / top).rglob("*.py")}:
            text = (folder / "__init__.py").read_text()
            assert text.startswith('"""'), folder
