"""Every Python example that a reader can copy runs: README, docs, and docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

import cdvision
import cdvision.export
import cdvision.heads

REPOSITORY = Path(__file__).parent.parent
PHOTO = REPOSITORY / "examples" / "photos" / "astronaut.jpg"
RUNNABLE = "<!-- runnable -->"  # a page in docs/ that has this line is run as well
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    docs = sorted((REPOSITORY / "docs").glob("*.md"))
    return [REPOSITORY / "README.md", *(page for page in docs if RUNNABLE in page.read_text())]


def modules() -> list[str]:
    """Return the names of all modules, heads and export included wherever they are installed."""
    walked = pkgutil.walk_packages(cdvision.__path__, "cdvision.")
    names = {info.name for info in walked}
    for package in (cdvision.heads, cdvision.export):
        names |= {i.name for i in pkgutil.walk_packages(package.__path__, package.__name__ + ".")}
    return ["cdvision", *sorted(names - {"cdvision.__main__"})]


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
    if name in ("cdvision.export.triton_answer_model", "cdvision.export.triton_decode_model"):
        pytest.importorskip("triton_python_backend_utils")  # exists inside a Triton server only
    module: ModuleType = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, optionflags=flags, verbose=False)
    assert result.failed == 0, f"{name}: see the output above"
