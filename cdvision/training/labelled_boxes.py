"""Photos with boxes and masks from a COCO-format json, as training batches of one padded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.evaluation.coco_labels import read_coco_labels
from cdvision.results.masks import Rle, decode_mask, expand_counts
from cdvision.training.photo_bank import read_named_photos

PADDING = (124, 116, 104)  # RGB, what the package pads network inputs with
SCALES = (0.8, 1.25)  # of a photo that just covers the canvas's short side
LEAST_VISIBLE = 0.25  # of an object's box: what the crop leaves less of is no target
FLIP = 0.5


@dataclass(frozen=True)
class BoxedPhoto:
    """One photo and the n objects on it."""

    pixels: Tensor  # uint8 (3, H, W)
    boxes: NDArray[np.float32]  # (n, 4), left, top, right, bottom in pixels
    labels: NDArray[np.int64]  # (n,) from 1, in the order of the set's class names
    masks: Sequence[Rle | None]  # run-length, or None where the set has none


class BoxedPhotos(NamedTuple):
    """Photos and the names of their classes, label 1 first."""

    photos: Sequence[BoxedPhoto]
    classes: tuple[str, ...]


class LabelledBatch(NamedTuple):
    """Network inputs and targets as torchvision's detectors want them.

    Targets hold ``boxes`` (n, 4), ``labels`` (n,), ``masks`` (n, H, W) uint8 and ``masked`` (n,)
    bool: which objects have a mask at all.
    """

    images: Tensor  # (N, 3, H, W) float32 0..255
    sizes: list[tuple[int, int]]  # height and width of the content
    targets: list[dict[str, Tensor]]


def read_labelled(labels: Path, sources: Sequence[Path]) -> BoxedPhotos:
    """Read a COCO-format json and the photos that it names.

    Classes become 1, 2, … in the order of their ids. Crowds are left out, and so are objects
    marked ``ignore`` and boxes without area. The photos, of folders or tars, stay decoded in
    memory (about 1.5 GB for 5,000 photos of 384 x 256).

    Raises:
        CdvisionError: the json is not in COCO's format (see ``read_coco_labels``), or no photo of
            it was found.
    """
    read = read_coco_labels(labels)
    classes = sorted(read.categories, key=lambda name: read.categories[name])
    number = {read.categories[name]: n for n, name in enumerate(classes, 1)}
    objects = _objects(read.annotations, number)
    names = {str(image["file_name"]): image["id"] for image in read.images}
    photos = [
        _photo(pixels, objects.get(names[name], []))
        for name, pixels in read_named_photos(sources, names, of=labels)
    ]
    return BoxedPhotos(photos, tuple(classes))


class LabelledBank:
    """Draws batches from labelled photos, landscape and portrait apart: less padding to compute.

    ``short`` and ``long`` are the sides of a network input in pixels, multiples of 64.
    """

    def __init__(
        self,
        photos: Sequence[BoxedPhoto],
        *,
        short: int,
        long: int,
        device: torch.device,
        with_masks: bool = True,
    ) -> None:
        if short % 64 or long % 64 or not 0 < short <= long:
            raise CdvisionError(
                f"network inputs: expected sides that are multiples of 64, found {short} x {long}"
            )
        self.short, self.long, self.device, self.with_masks = short, long, device, with_masks
        wide = [photo.pixels.shape[2] >= photo.pixels.shape[1] for photo in photos]
        self.landscape = [photo for photo, lies in zip(photos, wide, strict=True) if lies]
        self.portrait = [photo for photo, lies in zip(photos, wide, strict=True) if not lies]

    def batch(self, size: int, rng: np.random.Generator) -> LabelledBatch:
        """Draw ``size`` photos of one orientation, scaled, flipped and cropped at random."""
        share = len(self.landscape) / (len(self.landscape) + len(self.portrait))
        wide = rng.random() < share
        group = self.landscape if wide else self.portrait
        canvas = (self.short, self.long) if wide else (self.long, self.short)
        chosen = [group[i] for i in rng.integers(len(group), size=size)]
        parts = [_place(photo, canvas, rng, self.with_masks) for photo in chosen]
        images = torch.cat([image for image, _, _ in parts]).to(self.device)
        targets = [{k: v.to(self.device) for k, v in t.items()} for _, _, t in parts]
        return LabelledBatch(images, [content for _, content, _ in parts], targets)


def _objects(
    annotations: Sequence[Mapping[str, Any]], number: Mapping[int, int]
) -> dict[int, list[dict[str, Any]]]:
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in annotations:
        if annotation["ignore"] or annotation["iscrowd"] or min(annotation["bbox"][2:]) < 1:
            continue
        known = {**annotation, "label": number[annotation["category_id"]]}
        objects.setdefault(annotation["image_id"], []).append(known)
    return objects


def _photo(pixels: Tensor, objects: list[dict[str, Any]]) -> BoxedPhoto:
    xywh = np.array([o["bbox"] for o in objects], dtype=np.float32).reshape(-1, 4)
    return BoxedPhoto(
        pixels=pixels,
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        labels=np.array([o["label"] for o in objects], dtype=np.int64),
        masks=[_rle(o.get("segmentation")) for o in objects],
    )


def _rle(segmentation: Any) -> Rle | None:
    if not isinstance(segmentation, dict):  # polygons are no masks here
        return None
    counts = segmentation["counts"]
    text = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    expand_counts(text)  # what is broken is found now and not after an hour
    return Rle(size=list(segmentation["size"]), counts=text)


def _place(
    photo: BoxedPhoto, canvas: tuple[int, int], rng: np.random.Generator, with_masks: bool
) -> tuple[Tensor, tuple[int, int], dict[str, Tensor]]:
    """Put a photo on a canvas at a random scale: what exceeds it is cropped, the rest padded."""
    source = photo.pixels.shape[1:]
    # At factor 1 the photo just covers the canvas's short side.
    factor = rng.uniform(*SCALES) * min(canvas) / min(source)
    scaled = max(1, round(source[0] * factor)), max(1, round(source[1] * factor))
    top, left = (int(rng.integers(max(0, s - c) + 1)) for s, c in zip(scaled, canvas, strict=True))
    content = min(scaled[0], canvas[0]), min(scaled[1], canvas[1])
    flipped = rng.random() < FLIP

    def cut(maps: Tensor, fill: Tensor) -> Tensor:
        part = _resize(maps, scaled)[..., top : top + content[0], left : left + content[1]]
        whole = fill.expand(*maps.shape[:2], *canvas).clone()
        whole[..., : content[0], : content[1]] = part.flip(3) if flipped else part
        return whole

    # Boxes go the way of the pixels: scaled, moved by the crop, mirrored inside the content.
    boxes = photo.boxes * np.tile([scaled[1] / source[1], scaled[0] / source[0]], 2)
    boxes -= np.tile([left, top], 2)
    if flipped:
        boxes = np.stack([content[1] - boxes[:, 2], boxes[:, 1], content[1] - boxes[:, 0],
                          boxes[:, 3]], axis=1)  # fmt: skip
    boxes, kept = _visible(boxes, content)
    target = {
        "boxes": torch.from_numpy(boxes[kept]).float(),
        "labels": torch.from_numpy(photo.labels[kept]),
    }
    if with_masks:
        dense, known = _dense([photo.masks[i] for i in np.flatnonzero(kept).tolist()], source)
        # Masks are resized as pixels are, then cut at one half: edges move with those they outline.
        target["masks"] = (cut(dense, torch.zeros(1, 1, 1, 1))[0] > 0.5).to(torch.uint8)
        target["masked"] = known
    image = cut(photo.pixels[None].float(), torch.tensor(PADDING).float().view(1, 3, 1, 1))
    return image, content, target


def _visible(
    boxes: NDArray[np.float32], content: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clip boxes to the content, and tell which still show enough."""
    height, width = content
    clipped = np.clip(boxes, 0, np.array([width, height, width, height]))
    sides, before = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    # By area, not by side: a person cut at the waist is still one, a sliver at the edge is not.
    kept = (sides.min(1, initial=np.inf) >= 2) & (
        sides.prod(1) >= LEAST_VISIBLE * np.maximum(before.prod(1), 1e-6)
    )
    return clipped.astype(np.float32), kept


def _dense(masks: Sequence[Rle | None], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Decode to (1, n, H, W) float32, and tell which objects have a mask (n,)."""
    dense = np.zeros((1, len(masks), *size), dtype=np.float32)
    for row, mask in enumerate(masks):
        if mask is not None:
            dense[0, row] = decode_mask(mask)
    return torch.from_numpy(dense), torch.tensor([mask is not None for mask in masks])


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[1] == 0:  # a photo without objects; ``interpolate`` refuses no channels
        return maps.new_zeros(*maps.shape[:2], *size)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
