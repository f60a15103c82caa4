"""What a mask branch learns from: photos as a receiver has them, and the masks of what it finds.

The networks before the branch are frozen, and cost more than it does: so a round of batches is
prepared once and learned from several times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cdvision.engines import Engine
from cdvision.heads.distribution_boxes import cell_grid, decode_boxes
from cdvision.models.small.nanodet import DetectorFeatures
from cdvision.models.small.network import Small
from cdvision.models.small.training.receiver import draw_quality
from cdvision.training.labelled_boxes import LabelledBank

SAMPLES = 32  # a side: points in a box at which a mask is compared
CELLS_PER_OBJECT = 3
LEAST_OVERLAP = 0.5  # of a cell's box with the object's


class MaskExample(NamedTuple):
    """One batch to learn from, with P cells that found an object."""

    features: Tensor  # (N, 116 or 176, H/8, W/8)
    pyramid: tuple[Tensor, ...]  # maps at 1/8, 1/16 and 1/32
    cells: list[Tensor]  # embeddings (p, 96 or 128) of the cells, a level each; P cells in all
    image: Tensor  # (P,) int64, which picture of the batch
    boxes: Tensor  # (P, 4) the cells' own boxes in pixels
    masks: Tensor  # (P, 32, 32) the object's mask at points spread over the box, 0 ... 1


class _Found(NamedTuple):
    """Cells that found objects, each (P,) int64."""

    image: Tensor  # of which picture
    cell: Tensor
    number: Tensor  # of the object in the picture


def receive(
    engine: Engine, detector: str, images: Tensor, quality: NDArray[np.int64]
) -> DetectorFeatures:
    """Send (N, 3, H, W) RGB 0..255 at qualities (N,), 0 to 7; return the features that arrive.

    The package's own graphs do it: the latents are those that its streams carry.
    """
    pixels = images.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    latents = engine.run("encoder", {"image": pixels, "quality": quality})
    found = engine.run(f"tap.{detector}", {**latents, "quality": quality})
    fine, coarse = (torch.from_numpy(found[name]) for name in ("fine", "features"))
    return DetectorFeatures(fine.to(images.device), coarse.to(images.device))


@torch.no_grad()
def draw_example(
    engine: Engine, model: Small, bank: LabelledBank, batch: int, rng: np.random.Generator
) -> MaskExample:
    """Draw photos and qualities, send them, and look which cells find objects with masks."""
    photos = bank.batch(batch, rng)
    features = receive(engine, model.detector, photos.images, draw_quality(batch, rng).numpy())
    tail = model.detector_tail
    pyramid = tail.pyramid(features)
    embeddings = tail.head.embeddings(pyramid)
    scores, distances = tail.head.outputs(embeddings)
    boxes = _cell_boxes(distances, photos.images.shape[2:])
    found = _find(boxes, torch.sigmoid(scores).amax(dim=2), photos.targets)
    chosen = boxes[found.image, found.cell]
    masks = _sampled_masks([target["masks"] for target in photos.targets], found, chosen)
    cells = _embeddings(embeddings, found)
    return MaskExample(features.fine, pyramid[:3], cells, found.image, chosen, masks)


def _find(boxes: Tensor, confidence: Tensor, targets: Sequence[dict[str, Tensor]]) -> _Found:
    """Match the cells of a batch with its labelled objects, in the order of the cells."""
    parts = [
        _matches(number, boxes[number], confidence[number], target)
        for number, target in enumerate(targets)
    ]
    image, cell, number = (torch.cat(columns) for columns in zip(*parts, strict=True))
    # Cells count through the levels: sorted, those of one level stand together.
    order = torch.argsort(cell, stable=True)
    return _Found(image[order], cell[order], number[order])


def sample_in_boxes(maps: Tensor, image: Tensor, boxes: Tensor, *, stride: int) -> Tensor:
    """Sample maps (N, C, h, w) at 32 x 32 points of each box: (P, C, 32, 32).

    ``image`` (P,) is the picture of each box; ``boxes`` (P, 4) are in pixels of the network input,
    of which a cell of the maps has ``stride``.
    """
    grid = _grid(boxes, maps.new_tensor([maps.shape[3], maps.shape[2]]) * stride)
    rows, parts = [torch.nonzero(image == n)[:, 0] for n in range(len(maps))], []
    # One picture at a time: ``maps[image]`` would copy a map for each box.
    for number, own in enumerate(rows):
        points = grid[own].view(1, -1, SAMPLES, 2)
        part = F.grid_sample(
            maps[number : number + 1], points, padding_mode="border", align_corners=False
        )
        parts.append(part.view(maps.shape[1], len(own), SAMPLES, SAMPLES).transpose(0, 1))
    return torch.cat(parts)[torch.argsort(torch.cat(rows))]


def _grid(boxes: Tensor, sides: Tensor) -> Tensor:
    """Return places in boxes (P, 32, 32, 2), x and y, where a map of ``sides`` spans -1 ... 1."""
    # Centres of equal cells: no point lies on the edge, where the object ends.
    points = (torch.arange(SAMPLES, device=boxes.device) + 0.5) / SAMPLES
    low, extent = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    # ``grid_sample`` counts from -1 at the left edge of the map to 1 at its right one.
    x, y = (2 * (low + points[None, :, None] * extent) / sides - 1).unbind(2)
    across, down = x[:, None].expand(-1, SAMPLES, -1), y[:, :, None].expand(-1, -1, SAMPLES)
    return torch.stack([across, down], dim=3)


def _cell_boxes(distances: Tensor, size: Sequence[int]) -> Tensor:
    """Decode (N, M, 32) to boxes (N, M, 4) inside the picture, at least one pixel large."""
    height, width = size
    cells = np.tile(cell_grid(height, width), (len(distances), 1))
    flat = decode_boxes(distances.flatten(0, 1).float().cpu().numpy(), cells)
    flat[:, :2] = np.clip(flat[:, :2], 0, (width - 1, height - 1))
    flat[:, 2:] = np.clip(flat[:, 2:], flat[:, :2] + 1, (width, height))
    return torch.from_numpy(flat).view(len(distances), -1, 4).to(distances.device)


def _matches(number: int, boxes: Tensor, confidence: Tensor, target: dict[str, Tensor]) -> _Found:
    """Give each object with a mask the surest cells whose boxes are its own.

    A cell's class is not asked: masks need not know what they are masks of.
    """
    overlap = _overlaps(boxes, target["boxes"])  # (M, n)
    best, owner = overlap.max(dim=1) if overlap.shape[1] else (overlap.sum(1), overlap.sum(1))
    cells, numbers = [], []
    for item in torch.nonzero(target["masked"])[:, 0].tolist():
        own = torch.nonzero((owner == item) & (best >= LEAST_OVERLAP))[:, 0]
        # Sure and well placed at once: a sure cell with a poor box is a poor teacher.
        rank = torch.argsort(confidence[own] * best[own], descending=True)[:CELLS_PER_OBJECT]
        cells.append(own[rank])
        numbers.append(torch.full_like(own[rank], item))
    # Photos without masks give empty columns, which ``cat`` would refuse to make of nothing.
    none = [torch.zeros(0, dtype=torch.int64, device=boxes.device)]
    cell = torch.cat(cells + none)
    return _Found(torch.full_like(cell, number), cell, torch.cat(numbers + none))


def _overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (M, 4) with (n, 4)."""
    low = torch.maximum(first[:, None, :2], second[:, :2])
    high = torch.minimum(first[:, None, 2:], second[:, 2:])
    # Boxes that do not meet have a negative side: two of them would multiply to an area.
    shared = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp(min=1e-6)


def _embeddings(levels: Sequence[Tensor], found: _Found) -> list[Tensor]:
    """Pick the embeddings of cells, which are in the levels' order."""
    picked, first = [], 0
    for level in levels:
        cells = level.flatten(2).transpose(1, 2)  # (N, m, 96)
        here = (found.cell >= first) & (found.cell < first + cells.shape[1])
        picked.append(cells[found.image[here], found.cell[here] - first])
        first += cells.shape[1]
    return picked


def _sampled_masks(masks: Sequence[Tensor], found: _Found, boxes: Tensor) -> Tensor:
    """Sample each cell's mask in the cell's own box: the box that a receiver will have."""
    # Objects of all pictures stand in one row; a picture's begin behind those before it.
    first = np.cumsum([0, *(len(m) for m in masks)])
    starts = torch.tensor(first[:-1], device=found.image.device)
    stacked = torch.cat(list(masks))[:, None].float()
    row = starts[found.image] + found.number
    return sample_in_boxes(stacked, row, boxes, stride=1)[:, 0]
