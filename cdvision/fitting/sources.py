"""Finds the network that ``--network`` names: of torchvision, timm, a factory, or an ONNX file."""

from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from cdvision.errors import CdvisionError
from cdvision.fitting.cut import cut_network
from cdvision.fitting.network import PixelFormat, SplitNetwork, TorchNetwork, Triple
from cdvision.package.loader import file_sha256

DEFAULT = "DEFAULT"
PIXELS = ("mean", "std", "range", "order")
Network = nn.Module | tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class NetworkRequest:
    """What a user says of the network.

    ``source`` is ``torchvision:NAME``, ``timm:NAME``, ``FILE.py:FACTORY``, an ``.onnx`` file, a
    module, or a pair of modules (front, tail). The last four are of its input: where they are None,
    they are what is known of the network, else ImageNet's mean and spread of RGB in 0..1.
    """

    source: str | Path | Network
    split: str | None = None  # name of a module, or of an ONNX tensor
    weights: str | Path | None = None  # .safetensors, .pth, or a name of torchvision or timm
    mean: Triple | None = None
    std: Triple | None = None
    range: float | None = None
    order: str | None = None

    def pixels(self, known: PixelFormat) -> PixelFormat:
        """Return what is asked for, and what is known of the network where nothing is."""
        asked = {name: getattr(self, name) for name in PIXELS}
        return replace(known, **{name: v for name, v in asked.items() if v is not None})


class FoundNetwork(NamedTuple):
    """A network before it is split."""

    network: Network
    source: str  # for the card
    weights: str | None = None  # for the card; None where a file may still fill it
    pixels: PixelFormat = PixelFormat()  # as far as it is known


def find_network(request: NetworkRequest, device: torch.device) -> SplitNetwork:
    """Build, fill and split a network; raises CdvisionError that says what to do if it cannot."""
    if isinstance(request.source, (str, Path)) and str(request.source).endswith(".onnx"):
        from cdvision.fitting.onnx_network import open_onnx

        if request.weights is not None:
            raise CdvisionError("--weights: an ONNX file holds its own, expected none")
        return open_onnx(Path(request.source), request.split, request.pixels(PixelFormat()))
    found = _find(request)
    weights = found.weights
    if weights is None and request.weights is None:
        weights = "the factory's own"
    elif weights is None:
        weights = _fill(found.network, Path(str(request.weights)))
    facts = {"source": found.source, "weights": weights}
    return split_torch(found.network, request.split, facts, request.pixels(found.pixels), device)


def split_torch(
    network: Network,
    split: str | None,
    facts: dict[str, Any],
    pixels: PixelFormat,
    device: torch.device,
) -> TorchNetwork:
    """Split a network at a named module; a pair of modules is split already."""
    if isinstance(network, tuple):
        split = split or "front | tail"
        front, tail = network
    elif split is None:
        raise CdvisionError("--split: expected the name of a module, such as layer2, found none")
    else:
        front, tail = cut_network(network.eval(), split)
    return TorchNetwork(front, tail, {**facts, "split": split}, pixels, device)


def _find(request: NetworkRequest) -> FoundNetwork:
    source = request.source
    if not isinstance(source, (str, Path)):
        named = source if isinstance(source, nn.Module) else source[0]
        kept = copy.deepcopy(source)  # what is fitted to is frozen, moved and rounded
        return FoundNetwork(kept, type(named).__name__)
    kind, _, name = str(source).partition(":")
    if kind == "torchvision" and name:
        return _torchvision(request, name)
    if kind == "timm" and name:
        return _timm(request, name)
    # From the right: paths of Windows have a colon behind the drive.
    path, _, factory = str(source).rpartition(":")
    if path.endswith(".py"):
        return _made(request, Path(path), factory)
    raise CdvisionError(
        f"--network: expected torchvision:NAME, timm:NAME, FILE.py:FACTORY or FILE.onnx, found "
        f"{str(source)!r}"
    )


def _torchvision(request: NetworkRequest, name: str) -> FoundNetwork:
    from torchvision import models

    try:
        choices = models.get_model_weights(name)
    except ValueError as error:
        raise CdvisionError(f"--network: torchvision has no model {name!r}") from error
    wanted, source = str(request.weights or DEFAULT), f"torchvision:{name}"
    if wanted in choices.__members__:
        preset = choices[wanted]
        network = _downloaded(lambda: models.get_model(name, weights=preset), source)
        return FoundNetwork(network, source, str(preset), _torchvision_pixels(preset))
    if Path(wanted).suffix:
        # A file's input is taken to be that of torchvision's own weights.
        pixels = _torchvision_pixels(choices[DEFAULT])
        return FoundNetwork(models.get_model(name, weights=None), source, pixels=pixels)
    offered = ", ".join(choices.__members__)
    raise CdvisionError(f"--weights: expected a file or one of {offered}, found {wanted!r}")


def _torchvision_pixels(weights: Any) -> PixelFormat:
    """Read mean and spread from the transforms that torchvision gives with weights."""
    preset = weights.transforms()
    if not hasattr(preset, "mean"):
        return PixelFormat(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # detectors: in the network
    return PixelFormat(mean=tuple(preset.mean), std=tuple(preset.std))


def _timm(request: NetworkRequest, name: str) -> FoundNetwork:
    try:
        import timm
    except ImportError as error:
        raise CdvisionError("--network timm:NAME needs timm: pip install timm") from error
    weights, source = request.weights, f"timm:{name}"
    file = weights is not None and bool(Path(str(weights)).suffix)
    tagged = name if file or weights in (None, DEFAULT) else f"{name}.{weights}"
    network = _downloaded(lambda: timm.create_model(tagged, pretrained=not file), source)
    data = timm.data.resolve_model_data_config(network)
    pixels = PixelFormat(mean=tuple(data["mean"]), std=tuple(data["std"]))
    known_as: Any = network.pretrained_cfg
    tag = None if file else str(known_as.get("tag", ""))
    return FoundNetwork(network, source, tag, pixels)


def _downloaded(make: Callable[[], nn.Module], source: str) -> nn.Module:
    try:
        return make()
    except Exception as error:  # networks, caches and hubs raise what they like
        reason = " ".join(str(error).split())[:160]
        raise CdvisionError(
            f"{source} and its weights cannot be had ({reason}): name a file with --weights"
        ) from error


def _made(request: NetworkRequest, path: Path, factory: str) -> FoundNetwork:
    """Let a user's function build the network; one that takes an argument fills it itself."""
    source, weights = f"{path.name}:{factory}", request.weights
    function = _function(path, factory)
    fills_itself = bool(inspect.signature(function).parameters)
    try:
        made = function(weights) if fills_itself else function()
    except Exception as error:  # the user's own code
        raise CdvisionError(
            f"--network: {source} failed with {type(error).__name__}: {error}"
        ) from error
    parts = made if isinstance(made, tuple) else (made,)
    if len(parts) > 2 or not all(isinstance(part, nn.Module) for part in parts):
        raise CdvisionError(
            f"--network: {source} returned {type(made).__name__}: expected a module, or two "
            "(front, tail)"
        )
    network = parts if len(parts) == 2 else parts[0]
    if not fills_itself:
        return FoundNetwork(network, source)
    return FoundNetwork(network, source, "none" if weights is None else Path(weights).name)


def _function(path: Path, name: str) -> Callable[..., Any]:
    """Import a function from a file."""
    if not path.is_file():
        raise CdvisionError(f"--network: no file {path}")
    # Under a name of its own: a file called torch.py must not become `torch`.
    spec = importlib.util.spec_from_file_location(f"cdvision_fit_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CdvisionError(f"--network: {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function: Callable[..., Any] = getattr(module, name)
    except Exception as error:  # the user's own code
        raise CdvisionError(
            f"--network: {path}:{name} cannot be had, {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise CdvisionError(f"--network: {path}:{name} is no function")
    return function


def _fill(network: Network, path: Path) -> str:
    """Load a file of weights; returns its name and hash, for the card."""
    if isinstance(network, tuple):
        raise CdvisionError("--weights: a factory that returns two parts fills them itself")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            # weights_only: a file of weights must not run code.
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        # Checkpoints hold the weights beside an optimiser, under one of two customary names.
        for key in ("state_dict", "model"):
            if isinstance(loaded.get(key), dict):
                loaded = loaded[key]
        # DataParallel puts "module." before every name.
        network.load_state_dict({k.removeprefix("module."): v for k, v in loaded.items()})
    except FileNotFoundError as error:
        raise CdvisionError(f"--weights: no file {path}") from error
    except Exception as error:  # torch, pickle and safetensors share no base
        reason = " ".join(str(error).split())[:200]
        raise CdvisionError(f"--weights: {path} does not fill the network ({reason})") from error
    return f"{path.name} (SHA-256 {file_sha256(path)[:16]})"
