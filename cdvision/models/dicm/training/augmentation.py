"""MoCo v2's augmentation of whole batches on the device: colour jitter, grey, blur, flip.

Each photo of a batch gets its own strengths; the order of the colour changes is drawn a batch.
Source: Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

JITTER, GREY, BLUR, FLIP = 0.8, 0.2, 0.5, 0.5  # how often
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.4, 0.1
BLUR_SIGMAS = (0.1, 2.0)  # pixels
BLUR_RADIUS = 6  # pixels, three of the largest sigma
# RGB to luma and two colour differences, in whose plane a hue is an angle.
LUMA = (0.299, 0.587, 0.114)
_YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return another view of each of (N, 3, H, W), float RGB in 0..255."""
    count = len(images)
    jittered = _jitter(images, rng)
    images = _where(rng.random(count) < JITTER, jittered, images)
    images = _where(rng.random(count) < GREY, _grey(images).expand_as(images), images)
    blurred = blur(images, rng.uniform(*BLUR_SIGMAS, count))
    images = _where(rng.random(count) < BLUR, blurred, images)
    return _where(rng.random(count) < FLIP, images.flip(3), images)


def _jitter(images: Tensor, rng: np.random.Generator) -> Tensor:
    changes = [
        (_brightness, BRIGHTNESS), (_contrast, CONTRAST), (_saturation, SATURATION), (_hue, HUE),
    ]  # fmt: skip
    for index in rng.permutation(len(changes)):
        change, spread = changes[index]
        strength = rng.uniform(-spread, spread, len(images))
        amount = torch.from_numpy(strength).to(images).view(-1, 1, 1, 1)
        images = change(images, amount).clamp(0, 255)
    return images


def _brightness(images: Tensor, amount: Tensor) -> Tensor:
    return images * (1 + amount)


def _contrast(images: Tensor, amount: Tensor) -> Tensor:
    mean = _grey(images).mean((2, 3), keepdim=True)
    return mean + (images - mean) * (1 + amount)


def _saturation(images: Tensor, amount: Tensor) -> Tensor:
    grey = _grey(images)
    return grey + (images - grey) * (1 + amount)


def _hue(images: Tensor, amount: Tensor) -> Tensor:
    # ``amount`` is a share of the full circle; luma, the first axis, stays as it is.
    to_yiq = torch.tensor(_YIQ, device=images.device, dtype=images.dtype)
    angle = 2 * np.pi * amount.flatten()
    turn = torch.zeros(len(images), 3, 3, device=images.device, dtype=images.dtype)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = torch.cos(angle)
    turn[:, 2, 1] = torch.sin(angle)
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("nij,njhw->nihw", matrix, images)


def _grey(images: Tensor) -> Tensor:
    weight = torch.tensor(LUMA, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return (images * weight).sum(1, keepdim=True)


def blur(images: Tensor, sigmas: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Tensor:
    """Gaussian blur of (N, C, H, W), one sigma in pixels an image; edges are reflected."""
    count, channels, height, width = images.shape
    offsets = np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    kernel = np.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    kernel = np.repeat(kernel / kernel.sum(1, keepdims=True), channels, axis=0)
    taps = torch.from_numpy(kernel).to(images)[:, None]  # (N C, 1, 13)
    # A reflected edge is at most as wide as the image: the kernel of a tiny one loses its ends.
    radius = min(BLUR_RADIUS, height - 1, width - 1)
    taps = taps[..., BLUR_RADIUS - radius : BLUR_RADIUS + radius + 1]
    # Each image has a kernel of its own, so all their channels are groups of one convolution; a
    # Gaussian is a product, so columns and rows come one after the other.
    flat = F.pad(images.reshape(1, -1, height, width), (radius,) * 4, mode="reflect")
    flat = F.conv2d(flat, taps[..., None], groups=count * channels)
    flat = F.conv2d(flat, taps[..., None, :], groups=count * channels)
    return flat.view(images.shape)


def _where(chosen: np.ndarray[tuple[int], np.dtype[np.bool_]], new: Tensor, old: Tensor) -> Tensor:
    mask = torch.from_numpy(chosen).to(old.device).view(-1, 1, 1, 1)
    return torch.where(mask, new, old)
