"""What each part of DICM costs a sender and a receiver."""

from __future__ import annotations

from torch import nn

from cdvision.networks.cost import RECEIVER, SENDER, NetworkPart, Sizes

ENTROPY = "tables and means"  # integer networks that choose tables, float ones that move symbols
SEND, RECEIVE, BOTH = (SENDER,), (RECEIVER,), (SENDER, RECEIVER)


def dicm_parts(height: int, width: int) -> list[NetworkPart]:
    """Return the parts for a network input of so many pixels, in the order of data flow."""
    from cdvision.models.dicm.codec import Dicm, DicmRe
    from cdvision.models.dicm.resnet50 import ResNet50Front, ResNet50Tail

    at = Sizes(height, width)
    codec = Dicm(DicmRe(ResNet50Front(), ResNet50Tail())).to("meta")  # tables are on the CPU
    features, y, z = at.map(256, 4), at.map(192, 16), at.map(192, 64)
    bottleneck, hyper_encoder = codec.bottleneck, codec.bottleneck.hyper_encoder
    del bottleneck.hyper_encoder  # it has a row of its own
    entropy = NetworkPart(ENTROPY, BOTH, bottleneck, (y, z, at.quality()), bottleneck.quantise)
    return [
        NetworkPart("ResNet head", SEND, codec.front, (at.map(3, 1),)),
        NetworkPart("RE encoder", SEND, codec.re.encoder, (features,)),
        NetworkPart("RE decoder", SEND, codec.re.decoder, (at.map(192, 32),)),
        NetworkPart("codec encoder", SEND, codec.analysis, (features,)),
        NetworkPart("hyper-encoder", SEND, hyper_encoder, (y,)),
        entropy,
        NetworkPart("codec decoder", RECEIVE, codec.synthesis, (y,)),
        NetworkPart("ResNet tail", RECEIVE, codec.tail, (features,)),
    ]


def dicm_re_parts(height: int, width: int) -> list[NetworkPart]:
    """Return the parts for a network input of so many pixels, in the order of data flow."""
    from cdvision.models.dicm.codec import DicmRe
    from cdvision.models.dicm.resnet50 import ResNet50Front, ResNet50Tail

    at = Sizes(height, width)
    codec = DicmRe(ResNet50Front(), ResNet50Tail())
    features, y, z = at.map(256, 4), at.map(192, 32), at.map(codec.widths.filtered_hyper, 128)
    bottleneck, hyper_encoder = codec.bottleneck, codec.bottleneck.hyper_analysis
    del bottleneck.hyper_analysis
    entropy = NetworkPart(ENTROPY, BOTH, bottleneck, (y, z, at.quality()), bottleneck.quantise)
    return [
        NetworkPart("ResNet head", SEND, codec.front, (at.map(3, 1),)),
        NetworkPart("RE encoder", SEND, codec.encoder, (features,)),
        NetworkPart("hyper-encoder", SEND, hyper_encoder, (y,)),
        entropy,
        NetworkPart("RE decoder", RECEIVE, codec.decoder, (y,)),
        NetworkPart("ResNet tail", RECEIVE, codec.tail, (features,)),
    ]


def dicm_light_parts(height: int, width: int) -> list[NetworkPart]:
    """Return the parts of `dicm-light` for a photo that is not enlarged."""
    from cdvision.models.dicm.backbones import ZOO, make_backbone
    from cdvision.models.dicm.light_codec import LightCodec
    from cdvision.networks.latent_model import HYPER_CHANNELS
    from cdvision.training.protocols import Backbone

    at = Sizes(height, width)
    codec = LightCodec(*make_backbone("resnet50-msra"), ZOO)
    y, z, quality = at.map(ZOO.filtered, 16), at.map(HYPER_CHANNELS, 64), at.quality()
    features, entropy = at.map(ZOO.features, 4), codec.bottleneck
    return [
        NetworkPart("patch analysis", SEND, codec.analysis, (at.map(3, 1),)),
        NetworkPart("hyper-encoder", SEND, entropy.encoder.hyper_analysis, (y,)),
        NetworkPart("integer hyper-decoder", BOTH, entropy.hyper_decoder, (z, quality)),
        NetworkPart("means and gains", BOTH, entropy.dequantiser, (y, z, quality)),
        NetworkPart("patch synthesis", RECEIVE, codec.synthesis, (y, quality)),
        NetworkPart("stem, res2", RECEIVE, codec.front, (at.map(3, 1),)),
        NetworkPart("correction", RECEIVE, codec.correction, (features, quality)),
        NetworkPart("res3, res4", RECEIVE, Backbone(nn.Identity(), codec.tail), (features,)),
    ]
