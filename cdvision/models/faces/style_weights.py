"""Loads a user's own StyleGAN2 generator: a safetensors file with documented names.

Two sets of names are read. The first is that of ``StyleGenerator.state_dict()``, for side s of
block k (k = 0 for 4 pixels, 1 for 8, ...):

======================================  =====================  ==================================
ours                                    NVIDIA's ``G_ema``      shape
======================================  =====================  ==================================
``mapping.layers.I.weight``, ``.bias``  ``mapping.fcI``         (style, style), (style,)
``mapping.mean``                        ``mapping.w_avg``       (style,)
``constant``                            ``synthesis.b4.const``  (channels, 4, 4)
``blocks.K.up``, ``blocks.K.conv``      ``synthesis.bS.conv0``, ``.conv1`` (b4 has ``conv1`` only)
  ``.conv.weight``                      ``.weight``             (out, in, 3, 3), gain not applied
  ``.conv.affine.weight``, ``.bias``    ``.affine``             (in, style), (in,)
  ``.bias``                             ``.bias``               (out,)
  ``.noise``, ``.noise_strength``       ``.noise_const``        (s, s), (); all layers or none
``blocks.K.rgb.conv.weight``            ``.torgb.weight``       (3, in, 1, 1)
``blocks.K.rgb.conv.affine``, ``.bias``  ``.torgb.affine``, ``.bias``
======================================  =====================  ==================================

The second is that of the public PyTorch release of StyleGAN2-ADA, so that its pickle, unpickled
once by its own code, needs one line: ``safetensors.torch.save_file(G_ema.state_dict(), path)``.
``mapping.mean`` may be missing (the mean of 4,096 styles is taken then), and so may the noise.
Resolution and widths are read from the shapes.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cdvision.errors import CdvisionError, ModelError
from cdvision.models.faces.style_generator import StyleGenerator
from cdvision.models.faces.widths import FaceWidths

MEAN_DRAWS = 4096
CONSTANT = "constant"
_PARTS = {
    "weight": "conv.weight",
    "affine.weight": "conv.affine.weight",
    "affine.bias": "conv.affine.bias",
    "bias": "bias",
    "noise_const": "noise",
    "noise_strength": "noise_strength",
}
_LAYERS = {"conv0": "up", "conv1": "conv", "torgb": "rgb"}


def load_style_generator(path: Path | str, *, feature_side: int = 16) -> StyleGenerator:
    """Return a generator with the weights and sizes of a safetensors file, in evaluation mode.

    F enters at ``feature_side``.

    Raises:
        ModelError: the file is missing, is no safetensors file, or misses a tensor.
    """
    path = Path(path)
    tensors = _renamed(_read(path))
    try:
        widths = read_widths(tensors, feature_side=feature_side)
    except CdvisionError as error:
        raise ModelError(f"{path} holds no StyleGAN2 generator: {error}") from error
    # One noise map tells that all are there: a missing one is named below.
    generator = StyleGenerator(widths, fixed_noise="blocks.0.conv.noise" in tensors)
    _fill(generator, tensors, path)
    return generator.eval()


def read_widths(tensors: dict[str, Tensor], *, feature_side: int) -> FaceWidths:
    """Infer sizes from the shapes of tensors with our names."""
    channels = _channels(tensors)
    resolution = 4 << (len(channels) - 1)
    # The widest is the cap; the finest side is below it and tells what is divided by sides.
    cap, base = max(channels), channels[-1] * resolution
    found = FaceWidths(
        resolution=resolution,
        style=_shape(tensors, "blocks.0.conv.conv.affine.weight", 2)[1],
        base=base,
        cap=cap,
        mapping_layers=sum(bool(re.fullmatch(r"mapping\.layers\.\d+\.weight", n)) for n in tensors),
        feature_side=feature_side,
        trunk_side=min(256, resolution),
    )
    expected = [found.channels(side) for side in found.sides]
    if channels != expected:
        raise CdvisionError(
            f"channels from 4 pixels up should be min(cap, base / side) like {expected}, "
            f"found {channels}"
        )
    return found


def _channels(tensors: dict[str, Tensor]) -> list[int]:
    _shape(tensors, CONSTANT, 3)
    found: list[int] = []
    while (name := f"blocks.{len(found)}.conv.conv.weight") in tensors:
        found.append(_shape(tensors, name, 4)[0])
    if len(found) < 2:
        raise CdvisionError(f"expected tensors blocks.0 to blocks.K, found {len(found)} of them")
    return found


def _shape(tensors: dict[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors:
        raise CdvisionError(f"tensor {name} is missing")
    if tensors[name].ndim != axes:
        raise CdvisionError(f"{name} should have {axes} axes, found {tuple(tensors[name].shape)}")
    return tuple(tensors[name].shape)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"weights of a generator not found: {path}")
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ModelError(
            f"{path} is not a safetensors file (a pickle is never opened; save the generator's "
            "state_dict with safetensors.torch.save_file)"
        ) from error


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors of NVIDIA's release our names; others keep theirs."""
    if "synthesis.b4.const" not in tensors:
        return tensors
    return {
        ours: tensor for name, tensor in tensors.items() if (ours := _our_name(name)) is not None
    }


def _our_name(name: str) -> str | None:
    """Translate one of NVIDIA's names; None for its FIR kernels, which are constants here."""
    fixed = {"synthesis.b4.const": CONSTANT, "mapping.w_avg": "mapping.mean"}
    if name.endswith("resample_filter"):
        return None
    if name in fixed:
        return fixed[name]
    if found := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
        return f"mapping.layers.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)", name):
        block = int(found[1]).bit_length() - 3  # of a power of two: 4 pixels are block 0
        return f"blocks.{block}.{_LAYERS[found[2]]}.{_PARTS.get(found[3], found[3])}"
    return name


def _fill(generator: StyleGenerator, tensors: dict[str, Tensor], path: Path) -> None:
    expected = generator.state_dict()
    missing = sorted(expected.keys() - tensors.keys() - {"mapping.mean"})
    unknown = sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        kind, name = ("misses", missing[0]) if missing else ("has the unknown", unknown[0])
        raise ModelError(f"{path} {kind} tensor {name} (see cdvision.models.faces.style_weights)")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name} should have shape {tuple(expected[name].shape)}, "
                f"found {tuple(tensor.shape)}"
            )
    with torch.no_grad():
        generator.load_state_dict(tensors, strict=False)
        if "mapping.mean" not in tensors:
            # A seed of its own: the same file gives the same mean everywhere.
            draws = torch.Generator().manual_seed(0)
            z = torch.randn(MEAN_DRAWS, generator.widths.style, generator=draws)
            generator.mapping.mean.copy_(generator.mapping(z).mean(0))
