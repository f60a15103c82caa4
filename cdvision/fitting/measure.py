"""Measures a tap on photos that it was not fitted on, at every quality, against pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from cdvision.errors import CdvisionError, ImageError
from cdvision.fitting.network import SplitNetwork
from cdvision.fitting.photos import PhotoFile
from cdvision.fitting.streams import StreamReader, image_tensor, stream_size

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PHOTOS = 100
NEIGHBOURS = 10


@dataclass(frozen=True)
class QualityFigures:
    """What a tap gives at one quality."""

    quality: int  # 1 and up
    bytes: float  # mean of a stream
    explained_variance: float  # of the features, all together: 1 - squared error / variance
    cosine: float  # mean similarity of the network's outputs from stream and from pixels
    top1: float | None  # share of photos with the same greatest output; None without vectors
    # Share of each photo's nearest neighbours, by the network's outputs from pixels, that are
    # among its nearest from streams: what a search keeps.
    neighbours: float

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values, rounded to what the photos can tell."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


class FigureSums:
    """Sums over photos of which a tap's figures are made, of all qualities side by side."""

    def __init__(self, qualities: int) -> None:
        # Squares of millions of cells are added up, and differences of sums taken: float64.
        self._bytes, self._error, self._cosine, self._same_top1 = torch.zeros(
            4, qualities, dtype=torch.float64
        )
        self._sum, self._square = torch.zeros(2, 1, dtype=torch.float64)
        self._cells = self.photos = 0
        self._outputs_are_vectors = True
        self._vectors: list[tuple[Tensor, Tensor]] = []

    def add_features(self, found: Tensor, target: Tensor, sizes: Sequence[int]) -> None:
        """Add (Q, F, h, w) from streams of so many bytes and (1, F, h, w) from pixels."""
        double = torch.float64
        self._error += (found - target).square().sum((1, 2, 3), dtype=double).cpu()
        self._sum = self._sum + target.sum((0, 2, 3), dtype=double).cpu()
        self._square = self._square + target.square().sum((0, 2, 3), dtype=double).cpu()
        self._cells += target[0, 0].numel()
        self._bytes += torch.tensor(sizes, dtype=torch.float64)
        self.photos += 1

    def add_outputs(self, found: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        """Add outputs (Q, ...) from streams and (1, ...) from pixels."""
        ours, theirs = (
            torch.cat([value.double().cpu().flatten(1) for value in side.values()], dim=1)
            for side in (found, target)
        )
        self._cosine += F.cosine_similarity(ours, theirs)
        # Of several outputs the first is what a classifier answers.
        first = next(iter(target.values()))
        if first.ndim == 2 and first.shape[1] > 1:
            answers = next(iter(found.values())).argmax(1)
            self._same_top1 += (answers == first.argmax(1)).double().cpu()
        else:
            self._outputs_are_vectors = False
        self._vectors.append((_pooled(found), _pooled(target)))

    def figures(self) -> list[QualityFigures]:
        """Return the figures of every quality, the lowest first."""
        # Each channel's squared distance from its own mean: sum of squares - square of sum / n.
        variance = (self._square - self._sum.square() / self._cells).sum()
        kept = neighbours_kept(self._vectors)
        count = self.photos
        return [
            QualityFigures(
                quality=index + 1,
                bytes=float(self._bytes[index] / count),
                explained_variance=float(1 - self._error[index] / variance),
                cosine=float(self._cosine[index] / count),
                top1=float(self._same_top1[index] / count) if self._outputs_are_vectors else None,
                neighbours=float(kept[index]),
            )
            for index in range(len(self._bytes))
        ]


def _pooled(outputs: Mapping[str, Tensor]) -> Tensor:
    """Return one vector a row: maps are averaged over their cells, for photos differ in size."""
    parts = [v.double().cpu() for v in outputs.values()]
    parts = [v.flatten(2).mean(2) if v.ndim > 2 else v.flatten(1) for v in parts]
    return torch.cat(parts, dim=1)


def neighbours_kept(vectors: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return (Q,): mean overlap of each photo's nearest neighbours by (Q, D) and by (1, D)."""
    # Of unit vectors the product is the cosine: one matrix holds all similarities.
    ours = F.normalize(torch.stack([found for found, _ in vectors], dim=1), dim=-1)  # (Q, P, D)
    theirs = F.normalize(torch.cat([target for _, target in vectors]), dim=-1)  # (P, D)
    # Among few photos, ten would be nearly all of them, and kept by anything.
    count = min(NEIGHBOURS, max(1, len(theirs) // 4))
    wanted = _nearest(theirs @ theirs.T, count)
    found = _nearest(ours @ ours.transpose(1, 2), count)
    return (wanted & found).double().sum(-1).mean(-1) / count


def _nearest(similarity: Tensor, count: int) -> Tensor:
    """Mark the greatest of each row (..., P, P), the photo itself left out."""
    # No cosine is below -1: 10 less, and a photo is the last of its own row.
    others = similarity - 10 * torch.eye(similarity.shape[-1], dtype=similarity.dtype)
    chosen = torch.zeros_like(others, dtype=torch.bool)
    return chosen.scatter(-1, others.topk(count, dim=-1).indices, True)


def held_out_images(files: Sequence[PhotoFile]) -> Iterator[Image]:
    """Decode the held-out photos that can be used; raises CdvisionError where there are none."""
    readable = 0
    for file in tqdm(files[:MOST_PHOTOS], desc="held out", unit="photo", disable=None):
        try:
            image = file.image()
        except ImageError:
            continue
        readable += 1
        yield image
    if not readable:
        raise CdvisionError(f"none of {len(files)} held-out photos can be read")


@torch.no_grad()
def measure_tap(
    tap: nn.Module,
    tail: nn.Module | None,
    reader: StreamReader,
    network: SplitNetwork,
    files: Sequence[PhotoFile],
) -> FigureSums:
    """Measure a tap, and the network's tail where that was tuned, on the first held-out photos."""
    card, coder = reader.package.card, reader.package.coder
    qualities = list(range(1, card.qualities + 1))
    levels = torch.tensor(qualities, device=reader.device) - 1
    sums = FigureSums(len(qualities))
    for image in held_out_images(files):
        pixels = reader.pixels(image)
        latents = reader.latents(pixels, qualities)
        sizes = [
            stream_size(card.codec, coder, one, quality, pixels.shape[1::-1], pixels)
            for one, quality in zip(latents, qualities, strict=True)
        ]
        features = tap(reader.decode(latents, qualities), levels)
        target = network.features(image_tensor(pixels, reader.device))
        sums.add_features(features, target, sizes)
        # A tuned tail answers from streams; what it should have said is the untouched one's.
        ours = network.outputs(features) if tail is None else tail(features)
        sums.add_outputs(ours, network.outputs(target))
    return sums
