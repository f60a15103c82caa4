"""What each part of `small` costs a sender and a receiver."""

from __future__ import annotations

import torch

from cdvision.networks.cost import RECEIVER, SENDER, NetworkPart, Sizes


def parts(height: int, width: int) -> list[NetworkPart]:
    """Return the parts for a network input of so many pixels, in the order of data flow."""
    from cdvision.models.small.nanodet import PLAIN

    return _parts(PLAIN, height, width)


def wide_parts(height: int, width: int) -> list[NetworkPart]:
    """Return those with NanoDet-Plus-m-1.5x in the receiver, see ``parts``."""
    from cdvision.models.small.nanodet import WIDE

    return _parts(WIDE, height, width)


def _parts(detector: str, height: int, width: int) -> list[NetworkPart]:
    from cdvision.models.small.descriptor import ELEMENTS
    from cdvision.models.small.network import PACKED_CHANNELS, WINDOW, Small
    from cdvision.networks.latent_model import HYPER_CHANNELS, LATENT_CHANNELS
    from cdvision.networks.mobilenet_v2 import EMBEDDING

    model, at = Small(detector), Sizes(height, width)
    encoder, y, packed = model.encoder, at.map(LATENT_CHANNELS, 16), at.map(PACKED_CHANNELS, 16)
    z, quality = at.map(HYPER_CHANNELS, 64), at.quality()
    features = (at.map(model.width.fine, 8), at.map(model.width.coarse, 16))
    embedding, code = torch.zeros(1, EMBEDDING), (torch.zeros(1, ELEMENTS), quality)
    describer, window = model.descriptor, torch.zeros(1, 3, WINDOW, WINDOW)
    sender, receiver, both = (SENDER,), (RECEIVER,), (SENDER, RECEIVER)
    return [
        NetworkPart("NanoDet front", sender, encoder.front, (at.map(3, 1),)),
        NetworkPart("analysis", sender, encoder.analysis, (packed,)),
        NetworkPart("hyper-analysis", sender, encoder.hyper_analysis, (y,)),
        NetworkPart("MobileNet (224 x 224)", sender, describer.network, (window,)),
        NetworkPart("descriptor", sender, describer.project, (embedding,)),
        NetworkPart("integer hyper-decoder", both, model.hyper_decoder, (z, quality)),
        NetworkPart("means and gains", both, model.dequantiser, (y, z, quality)),
        NetworkPart("NanoDet tap", receiver, model.detector_tap, (y,)),
        NetworkPart("NanoDet tail", receiver, model.detector_tail, (features,)),
        NetworkPart("MobileNet tap", receiver, model.classifier_tap, code),
        NetworkPart("MobileNet's last layer", receiver, model.classifier_tail, (embedding,)),
    ]
