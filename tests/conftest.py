"""What several test files share: the installed models, on each engine, and example photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import cdvision

if TYPE_CHECKING:
    from cdvision.fitting.network import TorchNetwork
    from cdvision.fitting.streams import StreamReader

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
def small_stream(model: cdvision.Model, photos: list[Path]) -> bytes:
    """Return a stream that is quick to decode."""
    return model.encode(photos[1], 4, size=96)


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Return the paths of the example photos."""
    assert len(PHOTOS) >= 5
    return PHOTOS


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen smooth pictures of several shapes, in two folders."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(16):
        size = [(64, 64), (64, 48), (48, 64)][number % 3]
        noise = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        place = root / ("a" if number % 2 else "b")
        place.mkdir(exist_ok=True)
        noise.resize(size, Image.Resampling.BICUBIC).save(place / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def tiny_split() -> TorchNetwork:
    """Split a tiny network, for what is fitted to it."""
    from fit_networks import tiny_network
    from torch import device

    from cdvision.fitting.network import PixelFormat
    from cdvision.fitting.sources import split_torch

    return split_torch(tiny_network(), "layer2", {"source": "tiny"}, PixelFormat(), device("cpu"))


@pytest.fixture(scope="module")
def small_reader() -> StreamReader:
    """Encode with `small`, at 64 pixels."""
    from torch import device

    from cdvision.fitting.streams import StreamReader
    from cdvision.package.loader import load_package
    from cdvision.package.registry import model_folder

    return StreamReader(load_package(model_folder("small")), device("cpu"), 64)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of research data, which is not part of the repository; or skip."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    return SHARED
