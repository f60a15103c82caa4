"""What each part of a network costs: parameters, and multiply-adds counted in a real forward pass.

The pass runs on PyTorch's "meta" device, which computes shapes and no values, under its own counter
of operations: convolutions, linear layers and matrix products count wherever they are called;
norms, activations, additions and FFTs do not, as usual in the field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cdvision.errors import ModelError
from cdvision.networks.dicm_widths import PAPER

if TYPE_CHECKING:
    from cdvision.networks.bottleneck import Bottleneck

SENDER, RECEIVER = "sender", "receiver"
TRAINING = "training"  # a reference that no stream meets
SIDE = 256  # default height and width of the network input, pixels
ENTROPY = "tables and means"  # integer networks that choose tables, float ones that move symbols


@dataclass(frozen=True)
class PartCost:
    """Size and work of one part of a network, for one image.

    Attributes:
        part: its name.
        sides: who runs it: "sender", "receiver" or both; "training" for the paper's float entropy
            model, which integer networks replace.
        parameters: number of parameters.
        multiply_adds: multiplications, each with an addition.
    """

    part: str
    sides: tuple[str, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class _Part:
    name: str
    sides: tuple[str, ...]
    module: nn.Module
    inputs: tuple[Any, ...]
    call: Callable[..., object] | None = None  # what the inputs go to, if not the module itself


def cost_table(network: str, height: int = SIDE, width: int = SIDE) -> list[PartCost]:
    """Count parameters and multiply-adds of every part of a network, in the order of data flow.

    Args:
        network: "small", "dicm" or "dicm-re".
        height: of the network input, pixels; a multiple of 64.
        width: of the network input, pixels; a multiple of 64.

    Raises:
        ModelError: no such network, or a size it cannot have.

    Example:
        >>> front = cost_table("dicm")[0]
        >>> front.parameters, front.multiply_adds
        (225344, 1026555904)
    """
    if network not in NETWORKS:
        raise ModelError(f"no cost table for {network!r}: expected one of {', '.join(NETWORKS)}")
    if height < 64 or width < 64 or height % 64 or width % 64:
        raise ModelError(f"cost table: expected multiples of 64 pixels, found {height} x {width}")
    with torch.device("meta"):
        return [
            PartCost(part.name, part.sides, *count(part.module, *part.inputs, call=part.call))
            for part in NETWORKS[network](height, width)
        ]


def count(
    module: nn.Module, *inputs: Any, call: Callable[..., object] | None = None
) -> tuple[int, int]:
    """Return the number of parameters of a module, and of multiply-adds for these inputs.

    Args:
        module: is put in evaluation mode.
        inputs: to the module, or to ``call``.
        call: one of the module's methods, where it is not the module's own forward pass.
    """
    module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        (call or module)(*inputs)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return parameters, counter.get_total_flops() // 2


def _dicm(height: int, width: int) -> list[_Part]:
    from cdvision.networks import entroformer
    from cdvision.networks.feature_codec import FeatureAnalysis, FeatureSynthesis
    from cdvision.networks.resnet50 import ResNet50Tail
    from cdvision.networks.transformer import WIDTH

    at = _Sizes(height, width)
    features, y, z = at.map(256, 4), at.map(192, 16), at.map(192, 64)
    side, visible = at.map(WIDTH, 16), at.map(1, 16).bool()
    both, training = (SENDER, RECEIVER), (TRAINING,)
    bottleneck = _bottleneck("dicm")
    return [
        *_filtering(at, decoder=(SENDER,)),
        _Part("codec encoder", (SENDER,), FeatureAnalysis(), (features,)),
        _Part("hyper-encoder", (SENDER,), entroformer.HyperEncoder(), (y,)),
        _Part(ENTROPY, both, bottleneck, (y, z, at.quality()), bottleneck.quantise),
        _Part("hyper-decoder", training, entroformer.FloatHyperDecoder(), (z,)),
        _Part("context transformer", training, entroformer.ContextTransformer(), (y, visible)),
        _Part("parameter network", training, entroformer.ParameterNetwork(), (side, side)),
        _Part("codec decoder", (RECEIVER,), FeatureSynthesis(), (y,)),
        _Part("ResNet tail", (RECEIVER,), ResNet50Tail(), (features,)),
    ]


def _dicm_re(height: int, width: int) -> list[_Part]:
    from cdvision.networks.hyper import HyperAnalysis
    from cdvision.networks.resnet50 import ResNet50Tail

    at = _Sizes(height, width)
    y, z, bottleneck = at.map(192, 32), at.map(PAPER.filtered_hyper, 128), _bottleneck("dicm-re")
    hyper_encoder = HyperAnalysis(PAPER.filtered, PAPER.filtered_hyper)
    *sender, decoder = _filtering(at, decoder=(RECEIVER,))
    return [
        *sender,
        _Part("hyper-encoder", (SENDER,), hyper_encoder, (y,)),
        _Part(ENTROPY, (SENDER, RECEIVER), bottleneck, (y, z, at.quality()), bottleneck.quantise),
        decoder,
        _Part("ResNet tail", (RECEIVER,), ResNet50Tail(), (at.map(256, 4),)),
    ]


def _filtering(at: _Sizes, *, decoder: tuple[str, ...]) -> list[_Part]:
    """Return what both profiles share; ``decoder`` says who runs RE's decoder."""
    from cdvision.networks.redundancy import RedundancyDecoder, RedundancyEncoder
    from cdvision.networks.resnet50 import ResNet50Front

    return [
        _Part("ResNet head", (SENDER,), ResNet50Front(), (at.map(3, 1),)),
        _Part("RE encoder", (SENDER,), RedundancyEncoder(), (at.map(256, 4),)),
        _Part("RE decoder", decoder, RedundancyDecoder(), (at.map(192, 32),)),
    ]


def _bottleneck(profile: str) -> Bottleneck:
    """Return a profile's bottleneck without its hyper-encoder, which has a row of its own."""
    from cdvision.networks.bottleneck import CheckerboardBottleneck, HyperpriorBottleneck

    bottleneck: Bottleneck
    with torch.device("cpu"):  # the start is computed, and "meta" computes nothing
        if profile == "dicm":
            bottleneck = CheckerboardBottleneck()
            del bottleneck.hyper_encoder
        else:
            bottleneck = HyperpriorBottleneck(PAPER.filtered, PAPER.filtered_hyper)
            del bottleneck.hyper_analysis
    return bottleneck.to("meta")


def _small(height: int, width: int) -> list[_Part]:
    from cdvision.networks.descriptor import ELEMENTS
    from cdvision.networks.latent_model import HYPER_CHANNELS, LATENT_CHANNELS
    from cdvision.networks.mobilenet_v2 import EMBEDDING
    from cdvision.networks.nanodet import COARSE_CHANNELS, FINE_CHANNELS
    from cdvision.networks.small import PACKED_CHANNELS, WINDOW, Small

    model, at = Small(), _Sizes(height, width)
    encoder, y, packed = model.encoder, at.map(LATENT_CHANNELS, 16), at.map(PACKED_CHANNELS, 16)
    z, quality = at.map(HYPER_CHANNELS, 64), at.quality()
    features = (at.map(FINE_CHANNELS, 8), at.map(COARSE_CHANNELS, 16))
    embedding, code = torch.zeros(1, EMBEDDING), (torch.zeros(1, ELEMENTS), quality)
    describer, window = model.descriptor, torch.zeros(1, 3, WINDOW, WINDOW)
    sender, receiver, both = (SENDER,), (RECEIVER,), (SENDER, RECEIVER)
    return [
        _Part("NanoDet front", sender, encoder.front, (at.map(3, 1),)),
        _Part("analysis", sender, encoder.analysis, (packed,)),
        _Part("hyper-analysis", sender, encoder.hyper_analysis, (y,)),
        _Part("MobileNet (224 x 224)", sender, describer.network, (window,)),
        _Part("descriptor", sender, describer.project, (embedding,)),
        _Part("integer hyper-decoder", both, model.hyper_decoder, (z, quality)),
        _Part("means and gains", both, model.dequantiser, (y, z, quality)),
        _Part("NanoDet tap", receiver, model.detector_tap, (y,)),
        _Part("NanoDet tail", receiver, model.detector_tail, (features,)),
        _Part("MobileNet tap", receiver, model.classifier_tap, code),
        _Part("MobileNet's last layer", receiver, model.classifier_tail, (embedding,)),
    ]


@dataclass(frozen=True)
class _Sizes:
    height: int
    width: int

    def map(self, channels: int, stride: int) -> Tensor:
        """Return a map of one image on the device of the context."""
        return torch.zeros(1, channels, -(-self.height // stride), -(-self.width // stride))

    def quality(self) -> Tensor:
        """Return the quality of one image."""
        return torch.zeros(1, dtype=torch.int64)


NETWORKS: dict[str, Callable[[int, int], list[_Part]]] = {
    "small": _small,
    "dicm": _dicm,
    "dicm-re": _dicm_re,
}
