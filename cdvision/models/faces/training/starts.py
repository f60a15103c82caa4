"""What a face stage begins with: an earlier run, published weights, or a user's own generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cdvision.errors import CdvisionError
from cdvision.models.faces.style_weights import load_style_generator
from cdvision.models.faces.training.networks import FaceNetworks, load_face_networks
from cdvision.models.faces.widths import FACE, FaceWidths


def start_networks(
    *, start: Path | str | None = None, trunk_weights: Path | None = None,
    generator: Path | None = None, widths: FaceWidths = FACE,
) -> FaceNetworks:  # fmt: skip
    """Return the networks that a stage trains on.

    Args:
        start: a finished run of a face stage, or a face package; it decides the widths.
        trunk_weights: folder with the ImageNet weights of the trunk, where it is not trained yet.
        generator: without ``start``: safetensors file of a StyleGAN2 generator, see
            :mod:`cdvision.models.faces.style_weights`; it decides resolution and style.
        widths: without both: sizes. With ``generator``, its trunk and heads are still used.
    """
    if start is not None:
        if generator is not None:
            raise CdvisionError("expected --start or --generator, found both")
        networks = load_face_networks(start)
    elif generator is not None:
        loaded = load_style_generator(generator, feature_side=widths.feature_side)
        sizes = replace(
            loaded.widths, trunk=widths.trunk, head=widths.head, attributes=widths.attributes,
            trunk_side=max(widths.trunk_side, min(256, loaded.widths.resolution)),
        )  # fmt: skip
        networks = FaceNetworks(sizes, fixed_noise=loaded.fixed_noise)
        networks.generator.load_state_dict(loaded.state_dict())
    else:
        networks = FaceNetworks(widths)
    trunk, trained = networks.encoder.trunk, networks.encoder.standard.fitted
    if trunk_weights is not None and not trained:
        trunk.load(trunk_weights)
    return networks
