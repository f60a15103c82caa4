"""Every Python example that a reader can copy runs: README, docs, and docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cdvision
import cdvision.export
import cdvision.heads
from cdvision.core import library

REPOSITORY = Path(__file__).parent.parent
PHOTO = REPOSITORY / "examples" / "photos" / "astronaut.jpg"
RUNNABLE = "<!-- runnable -->"  # a page in docs/ that has this line is run as well
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
README = REPOSITORY / "README.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"`(make [a-z0-9-]+)`")
SCRIPTS = Path(sys.executable).parent


def pages() -> list[Path]:
    docs = sorted((REPOSITORY / "docs").glob("*.md"))
    return [page for page in docs if RUNNABLE in page.read_text()]


def modules() -> list[str]:
    """Return the names of all modules, heads and export included wherever they are installed."""
    walked = pkgutil.walk_packages(cdvision.__path__, "cdvision.")
    names = {info.name for info in walked} - {f"cdvision.core.{Path(library.NAME).stem}"}
    for package in (cdvision.heads, cdvision.export):
        names |= {i.name for i in pkgutil.walk_packages(package.__path__, package.__name__ + ".")}
    # The core's library is no extension module, though pkgutil takes it for one.
    return ["cdvision", *sorted(names - {"cdvision.__main__", "cdvision.core.libcdv"})]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be where the examples expect to be: in a folder with a photo and the examples."""
    shutil.copy(PHOTO, tmp_path / "street.jpg")
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
@pytest.mark.usefixtures("desk")
def test_the_examples_of_a_page_run_in_order(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks, f"{page.name} has no Python example"
    namespace: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], str(page), "exec")
        exec(code, namespace)  # noqa: S102 - the examples of our own pages


@pytest.mark.parametrize("name", modules())
@pytest.mark.usefixtures("desk")
def test_the_examples_of_a_module_run(name: str) -> None:
    if f"{name}.".startswith("cdvision.models.dicm.detectron2."):
        pytest.importorskip("detectron2")  # not on the package index
    if name == "cdvision.export.triton_python_model":
        pytest.importorskip("triton_python_backend_utils")  # exists inside a Triton server only
    module: ModuleType = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, optionflags=flags, verbose=False)
    assert result.failed == 0, f"{name}: see the output above"


# --- the README, in a checkout to which nothing was added


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what git knows, or would know, of this repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=REPOSITORY, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("checkout") / "cdvision"
    for name in listed.stdout.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    # What installing compiled: git does not know it.
    shutil.copy2(library.FOLDER / library.NAME, folder / "cdvision" / "core")
    return folder


def run_in(checkout: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    return done.stdout


def as_run(line: str) -> list[str]:
    """Return a command with the tools of this environment; nothing is installed twice."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "pip":
        extra = ["--dry-run", "--no-deps", "--no-build-isolation", "-qq"]
        return [sys.executable, "-m", "pip", *arguments, *extra]
    if program == "make":
        venv = SCRIPTS.parent
        marks = [f"{venv}/.installed-{kind}" for kind in ("base", "dev")]
        kept = [option for mark in marks for option in ("-o", mark)]
        # The tests themselves, and what needs an emulator, are only looked at.
        look = [] if arguments == ["demo"] else ["-n"]
        return ["make", *look, *kept, f"VENV={venv}", *arguments]
    return [str(SCRIPTS / program), *arguments]


def alike(said: list[str], shown: list[str]) -> bool:
    """Compare words; another processor may round a latent apart, and move a number by a little."""
    return len(said) == len(shown) and all(
        one == other or abs(float(one) - float(other)) <= max(2.0, 0.02 * float(other))
        for one, other in zip(said, shown, strict=True)
    )


def test_every_line_of_the_readme_runs_as_typed(checkout: Path) -> None:
    text, said, ran = README.read_text(encoding="utf-8"), "", 0
    code: list[str] = []
    for language, block in FENCED.findall(text):
        if language == "python":  # later snippets go on from earlier ones
            code.append(block)
            said, before = run_in(checkout, sys.executable, "-c", "\n".join(code)), said
            said = said.removeprefix(before)
            ran += 1
        elif block.split()[0] in ("pip", "cdvision", "make"):
            for line in block.splitlines():
                run_in(checkout, *as_run(line))
                ran += 1
        else:
            assert alike(said.split(), block.split()), f"the snippet prints:\n{said}"
    assert ran >= 8
    assert (checkout / "boxes.png").stat().st_size > 10_000


def test_every_target_that_the_readme_names_exists(checkout: Path) -> None:
    commands = sorted(set(COMMAND.findall(README.read_text(encoding="utf-8"))))
    assert {"make demo", "make test"} <= set(commands)
    for command in commands:
        run_in(checkout, *as_run(command))
    assert (checkout / "out" / "demo.png").stat().st_size > 100_000


def test_the_readme_is_for_people_in_a_hurry() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert len(re.findall(r"[0-9][0-9,.]*", text)) <= 60
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (REPOSITORY / target).exists(), target
