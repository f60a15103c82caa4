"""Detections as a picture: boxes, labels and masks in sizes that suit the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cdvision.errors import ImageError
from cdvision.photo import ImageLike, read_photo
from cdvision.results.labels import Box, Colour, class_colour, place_label, text_colour
from cdvision.results.masks import decode_mask

if TYPE_CHECKING:
    from cdvision.results.detections import Detection, Detections

_MASK_OPACITY = 0.4
_STRIP_BACKGROUND: Colour = (24, 24, 27)
_STRIP_TEXT: Colour = (244, 244, 245)
# Aspect ratios of a picture and its scaled copy differ by rounding only.
_ASPECT_TOLERANCE = 0.02

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_detections(
    image: ImageLike,
    detections: Detections,
    *,
    caption: str | None = None,
    channels: str = "rgb",
) -> Image.Image:
    """Draw on a copy of the image, the surest boxes on top; see ``Detections.draw``.

    The image is turned upright by its EXIF orientation first; at another scale boxes are scaled,
    another aspect ratio is an ImageError. A caption makes the result higher by its strip.
    """
    upright = read_photo(image, channels)
    # read_photo may return the caller's own image, which is not to be drawn on
    canvas = upright.copy() if upright is image else upright
    across, down = _scale_to(canvas.size, detections.image_size)
    # The surest box is drawn last, on top.
    by_confidence = sorted(detections, key=lambda box: box.confidence)
    canvas = _with_masks(canvas, by_confidence)
    corners = [_scaled(box, across, down) for box in by_confidence]
    pen = ImageDraw.Draw(canvas)
    line_width = max(1, round(float(np.hypot(*canvas.size)) / 360))
    for box, place in zip(by_confidence, corners, strict=True):
        _draw_box(pen, place, class_colour(box.class_id), line_width)
    _draw_labels(pen, by_confidence[::-1], corners[::-1], canvas.size)
    return canvas if caption is None else with_caption(canvas, caption)


def with_caption(image: Image.Image, caption: str) -> Image.Image:
    """Return the image with a strip of text added below it; long text is set smaller to fit."""
    size = _font_size(image.size)
    margin = max(2, size // 2)
    font = ImageFont.load_default(size=size)
    length = font.getlength(caption)
    if length > image.width - 2 * margin:
        fitting = int(size * (image.width - 2 * margin) / length)
        font = ImageFont.load_default(size=max(6, fitting))
    strip = size + 2 * margin
    result = Image.new("RGB", (image.width, image.height + strip), _STRIP_BACKGROUND)
    result.paste(image)
    middle = (margin, image.height + strip / 2)
    ImageDraw.Draw(result).text(middle, caption, fill=_STRIP_TEXT, font=font, anchor="lm")
    return result


def _scale_to(size: tuple[int, int], image_size: tuple[int, int]) -> tuple[float, float]:
    across, down = size[0] / image_size[0], size[1] / image_size[1]
    # One pixel of rounding weighs more than the tolerance in a small thumbnail.
    tolerance = _ASPECT_TOLERANCE + 1 / min(size)
    if abs(across / down - 1) > tolerance:
        raise ImageError(
            f"the detections belong to an image of {image_size[0]}x{image_size[1]} pixels, but got "
            f"one of {size[0]}x{size[1]}, which has another aspect ratio"
        )
    return across, down


def _scaled(box: Detection, across: float, down: float) -> Box:
    left, top, right, bottom = box.xyxy
    return round(left * across), round(top * down), round(right * across), round(bottom * down)


def _font_size(size: tuple[int, int]) -> int:
    # A fiftieth of the diagonal reads well in a thumbnail and on a wall; below 9 nothing does.
    return max(9, round(float(np.hypot(*size)) / 50))


def _with_masks(canvas: Image.Image, boxes: list[Detection]) -> Image.Image:
    for box in boxes:
        if box.mask is None:
            continue
        # A mask is of the analysed image's size: its soft edge hides the steps of scaling.
        opacity = decode_mask(box.mask).astype(np.uint8) * round(255 * _MASK_OPACITY)
        layer = Image.fromarray(opacity)
        if layer.size != canvas.size:
            layer = layer.resize(canvas.size, Image.Resampling.BILINEAR)
        canvas.paste(class_colour(box.class_id), mask=layer)
    return canvas


def _draw_box(pen: ImageDraw.ImageDraw, place: Box, colour: Colour, width: int) -> None:
    left, top, right, bottom = place
    right, bottom = max(right - 1, left), max(bottom - 1, top)
    # Lines grow inwards, so a box that touches the border stays whole; a dark line inside it
    # keeps the box visible on a background of its own colour.
    inner = (left + width, top + width, right - width, bottom - width)
    if width > 1 and inner[2] - inner[0] > 4 * width and inner[3] - inner[1] > 4 * width:
        pen.rectangle(inner, outline=tuple(part // 3 for part in colour), width=max(1, width // 3))
    pen.rectangle((left, top, right, bottom), outline=colour, width=width)


def _draw_labels(
    pen: ImageDraw.ImageDraw, boxes: list[Detection], corners: list[Box], size: tuple[int, int]
) -> None:
    font = ImageFont.load_default(size=_font_size(size))
    placed: list[tuple[str, Colour, Box]] = []
    for box, corner in zip(boxes, corners, strict=True):
        if text := _fitting_text(box, font, size[0]):
            taken = [place for _, _, place in placed]
            place = place_label(_label_size(text, font), corner, size, taken)
            placed.append((text, class_colour(box.class_id), place))
    # Drawn in reverse, the surest box's label ends on top.
    for text, colour, place in reversed(placed):
        left, top, right, bottom = place
        pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        middle = (left + _padding(font), (top + bottom) / 2)
        pen.text(middle, text, fill=text_colour(colour), font=font, anchor="lm")


def _fitting_text(box: Detection, font: Font, width: int) -> str:
    """Return the longest form of the label that fits into the picture, or nothing."""
    name = box.class_name
    shortened = [f"{name[:length]}…" for length in range(len(name) - 1, 0, -1)]
    for text in (f"{name} {box.confidence:.2f}", name, *shortened):
        if _label_size(text, font)[0] <= width:
            return text
    return ""


def _label_size(text: str, font: Font) -> tuple[int, int]:
    # Capitals and descenders set the height, so that all labels of a picture are equally high.
    _, top, _, bottom = font.getbbox("Ágy")
    return int(font.getlength(text)) + 2 * _padding(font) + 1, int(bottom - top) + _padding(font)


def _padding(font: Font) -> int:
    return max(2, int(font.getlength("n")) // 2)
