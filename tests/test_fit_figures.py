"""What a fit measures: figures of known errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from PIL.Image import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cdvision.fitting.measure import FigureSums, measure_tap, neighbours_kept  # noqa: E402
from cdvision.fitting.network import TorchNetwork  # noqa: E402
from cdvision.fitting.photos import find_photos  # noqa: E402
from cdvision.fitting.streams import StreamReader, image_tensor  # noqa: E402
from cdvision.package.loader import load_package  # noqa: E402
from cdvision.package.registry import model_folder  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


class Oracle(nn.Module):
    """Gives the features of the photo that is measured, with an error of known size."""

    def __init__(self, network: TorchNetwork, reader: StreamReader, error: float) -> None:
        super().__init__()
        self._network, self._error, self._pixels = network, error, reader.pixels
        self._image = torch.zeros(())

    def see(self, image: Image) -> np.ndarray:
        pixels = self._pixels(image)
        self._image = image_tensor(pixels, CPU)
        return pixels

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        exact = self._network.features(self._image).expand(len(y), -1, -1, -1)
        return exact + self._error * exact.std() * torch.randn_like(exact)


def test_figures_are_those_of_a_known_error(folder: Path, tiny_split: TorchNetwork) -> None:
    torch.manual_seed(0)
    files = find_photos([folder])
    for error in (0.0, 0.5):
        reader = StreamReader(load_package(model_folder("small")), CPU, 64)
        oracle = Oracle(tiny_split, reader, error)
        reader.pixels = oracle.see  # type: ignore[method-assign]
        figures = measure_tap(oracle, None, reader, tiny_split, files).figures()
        assert [one.quality for one in figures] == list(range(1, 9))
        assert [one.bytes for one in figures] == sorted(one.bytes for one in figures)
        if not error:
            perfect = (figures[0].explained_variance, figures[0].cosine, figures[0].top1)
            assert np.allclose(perfect, 1.0)
            assert figures[0].neighbours == 1.0
        else:
            # Pooled over channels, the variance is that of the mean channel and not of all values.
            assert all(0.5 < one.explained_variance < 0.9 for one in figures)
            assert all(one.neighbours < 1.0 for one in figures)


def test_explained_variance_by_hand() -> None:
    sums = FigureSums(2)
    target = torch.tensor([[1.0, 3.0], [0.0, 4.0]]).view(1, 2, 1, 2)
    mean = torch.tensor([2.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    sums.add_features(torch.cat([mean, target]), target, [10, 20])
    vectors = {"output": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    sums.add_outputs(vectors, {"output": torch.tensor([[0.0, 2.0]])})
    low, high = sums.figures()
    assert (low.explained_variance, high.explained_variance) == (0.0, 1.0)
    assert (low.cosine, high.cosine) == (0.0, 1.0)
    assert (low.top1, high.top1) == (0.0, 1.0)
    assert (low.bytes, high.bytes) == (10.0, 20.0)


def test_neighbours_kept_by_hand() -> None:
    def vectors(degrees: list[float]) -> Tensor:
        angles = torch.deg2rad(torch.tensor(degrees))
        # Lengths must not count: the last photos would be everyone's nearest.
        return torch.stack([angles.cos(), angles.sin()], dim=1) * torch.arange(1, 5)[:, None]

    # One neighbour of four photos, never the photo itself: here 1, 0, 3, 2.
    wanted = vectors([0.0, 10.0, 40.0, 60.0])
    swapped = vectors([0.0, 40.0, 10.0, 60.0])  # 2, 3, 0, 1
    moved = vectors([0.0, 10.0, 40.0, 22.0])  # 1, 0, 3, 1
    found = torch.stack([swapped, moved, wanted], dim=1)  # (photos, qualities, 2)
    pairs = [(found[n], wanted[n : n + 1]) for n in range(4)]
    assert neighbours_kept(pairs).tolist() == [0.0, 0.75, 1.0]
