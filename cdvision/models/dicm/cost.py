"""What each part of DICM costs a sender and a receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cdvision.models.dicm.widths import PAPER
from cdvision.networks.cost import RECEIVER, SENDER, Part, Sizes

if TYPE_CHECKING:
    from cdvision.models.dicm.bottleneck import Bottleneck

ENTROPY = "tables and means"  # integer networks that choose tables, float ones that move symbols


def dicm_parts(height: int, width: int) -> list[Part]:
    """Return the parts for a network input of so many pixels, in the order of data flow."""
    from cdvision.models.dicm.entroformer import HyperEncoder
    from cdvision.models.dicm.feature_codec import FeatureAnalysis, FeatureSynthesis
    from cdvision.models.dicm.resnet50 import ResNet50Tail

    at = Sizes(height, width)
    features, y, z = at.map(256, 4), at.map(192, 16), at.map(192, 64)
    bottleneck = _bottleneck("dicm")
    return [
        *_filtering(at, decoder=(SENDER,)),
        Part("codec encoder", (SENDER,), FeatureAnalysis(), (features,)),
        Part("hyper-encoder", (SENDER,), HyperEncoder(), (y,)),
        Part(ENTROPY, (SENDER, RECEIVER), bottleneck, (y, z, at.quality()), bottleneck.quantise),
        Part("codec decoder", (RECEIVER,), FeatureSynthesis(), (y,)),
        Part("ResNet tail", (RECEIVER,), ResNet50Tail(), (features,)),
    ]


def dicm_re_parts(height: int, width: int) -> list[Part]:
    """Return the parts for a network input of so many pixels, in the order of data flow."""
    from cdvision.models.dicm.resnet50 import ResNet50Tail
    from cdvision.networks.hyper import HyperAnalysis

    at = Sizes(height, width)
    y, z, bottleneck = at.map(192, 32), at.map(PAPER.filtered_hyper, 128), _bottleneck("dicm-re")
    hyper_encoder = HyperAnalysis(PAPER.filtered, PAPER.filtered_hyper)
    *sender, decoder = _filtering(at, decoder=(RECEIVER,))
    return [
        *sender,
        Part("hyper-encoder", (SENDER,), hyper_encoder, (y,)),
        Part(ENTROPY, (SENDER, RECEIVER), bottleneck, (y, z, at.quality()), bottleneck.quantise),
        decoder,
        Part("ResNet tail", (RECEIVER,), ResNet50Tail(), (at.map(256, 4),)),
    ]


def _filtering(at: Sizes, *, decoder: tuple[str, ...]) -> list[Part]:
    """Return what both profiles share; ``decoder`` says who runs RE's decoder."""
    from cdvision.models.dicm.redundancy import RedundancyDecoder, RedundancyEncoder
    from cdvision.models.dicm.resnet50 import ResNet50Front

    return [
        Part("ResNet head", (SENDER,), ResNet50Front(), (at.map(3, 1),)),
        Part("RE encoder", (SENDER,), RedundancyEncoder(), (at.map(256, 4),)),
        Part("RE decoder", decoder, RedundancyDecoder(), (at.map(192, 32),)),
    ]


def _bottleneck(profile: str) -> Bottleneck:
    """Return a profile's bottleneck without its hyper-encoder, which has a row of its own."""
    from cdvision.models.dicm.bottleneck import CheckerboardBottleneck, HyperpriorBottleneck

    bottleneck: Bottleneck
    with torch.device("cpu"):  # the start is computed, and "meta" computes nothing
        if profile == "dicm":
            bottleneck = CheckerboardBottleneck()
            del bottleneck.hyper_encoder
        else:
            bottleneck = HyperpriorBottleneck(PAPER.filtered, PAPER.filtered_hyper)
            del bottleneck.hyper_analysis
    return bottleneck.to("meta")
