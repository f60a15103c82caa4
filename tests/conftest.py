"""What several test files share: the installed models, on each engine, and example photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import cdvision

REPOSITORY = Path(__file__).parent.parent
PHOTOS = sorted((REPOSITORY / "examples" / "photos").glob("*.jpg"))
SHARED = REPOSITORY.parent / "shared" / "data"

LoadModel = Callable[..., cdvision.Model]


@cache
def _loaded(name: str, engine: str) -> cdvision.Model:
    # Two threads that wait for each other are slow where something else runs on the machine.
    return cdvision.load(name, engine=engine, threads=1 if engine == "torch" else None)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread: two that wait for each other are slow beside other work."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def load_model() -> LoadModel:
    """Load a model on an engine, once a session; skips where the engine is not installed."""

    def load(name: str = "small", engine: str = "onnx") -> cdvision.Model:
        if engine == "torch":
            pytest.importorskip("torch")
        return _loaded(name, engine)

    return load


@pytest.fixture(scope="session")
def model(load_model: LoadModel) -> cdvision.Model:
    """Return the default model on the default engine."""
    return load_model()


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Return the paths of the example photos."""
    assert len(PHOTOS) >= 5
    return PHOTOS


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of research data, which is not part of the repository; or skip."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    return SHARED
