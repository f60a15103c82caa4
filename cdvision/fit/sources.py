"""Finds the network that ``--network`` names: of torchvision, timm, a factory, or an ONNX file."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdvision.errors import CdvisionError
from cdvision.fit.network import SplitNetwork, split_torch
from cdvision.fit.pixels import PixelFormat, Triple

DEFAULT = "DEFAULT"
Network = nn.Module | tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class NetworkRequest:
    """What a user says of the network.

    Attributes:
        source: ``torchvision:NAME``, ``timm:NAME``, ``FILE.py:FACTORY``, an ``.onnx`` file, a
            module, or a pair of modules (front, tail).
        split: a module's name, or an ONNX tensor's.
        weights: a file (.safetensors, .pth), or a name that torchvision or timm knows.
        mean: of the input; what is known of the network where None, else ImageNet's.
        std: as ``mean``.
        range: as ``mean``; 1 by default.
        order: as ``mean``; RGB by default.
    """

    source: str | Path | Network
    split: str | None = None
    weights: str | Path | None = None
    mean: Triple | None = None
    std: Triple | None = None
    range: float | None = None
    order: str | None = None

    def pixels(self, known: PixelFormat) -> PixelFormat:
        """Return what is asked for, and what is known of the network where nothing is."""
        names = ("mean", "std", "range", "order")
        asked = {name: getattr(self, name) for name in names}
        return replace(known, **{name: v for name, v in asked.items() if v is not None})


def find_network(request: NetworkRequest, device: torch.device) -> SplitNetwork:
    """Build, fill and split the network.

    Raises:
        CdvisionError: it cannot be found, filled or split; the message says what to do.
    """
    source = request.source
    if not isinstance(source, (str, Path)):
        shown = source if isinstance(source, nn.Module) else source[0]
        kept = copy.deepcopy(source)  # what is fitted to is frozen, moved and rounded
        return _torch(request, kept, type(shown).__name__, PixelFormat(), device)
    text = str(source)
    if text.endswith(".onnx"):
        from cdvision.fit.onnx_network import open_onnx

        if request.weights is not None:
            raise CdvisionError("--weights: an ONNX file holds its own, expected none")
        return open_onnx(Path(text), request.split, request.pixels(PixelFormat()))
    kind, _, name = text.partition(":")
    if kind == "torchvision" and name:
        return _torchvision(request, name, device)
    if kind == "timm" and name:
        return _timm(request, name, device)
    path, _, factory = text.rpartition(":")
    if path.endswith(".py"):
        return _made(request, Path(path), factory, device)
    raise CdvisionError(
        f"--network: expected torchvision:NAME, timm:NAME, FILE.py:FACTORY or FILE.onnx, found "
        f"{text!r}"
    )


def _torch(
    request: NetworkRequest, network: Network, source: str, known: PixelFormat, device: torch.device
) -> SplitNetwork:
    """Split a network that may still need the weights of a file."""
    facts: dict[str, Any] = {"source": source, "weights": "the factory's own"}
    if request.weights is not None:
        facts["weights"] = _fill(network, Path(request.weights))
    return split_torch(network, request.split, facts, request.pixels(known), device)


def _torchvision(request: NetworkRequest, name: str, device: torch.device) -> SplitNetwork:
    from torchvision import models

    try:
        choices = models.get_model_weights(name)
    except ValueError as error:
        raise CdvisionError(f"--network: torchvision has no model {name!r}") from error
    wanted = str(request.weights or DEFAULT)
    named = wanted in choices.__members__
    preset = choices[wanted] if named else choices[DEFAULT]
    known = _torchvision_pixels(preset)
    if not named and Path(wanted).suffix:
        network = models.get_model(name, weights=None)
        return _torch(request, network, f"torchvision:{name}", known, device)
    if not named:
        offered = ", ".join(choices.__members__)
        raise CdvisionError(f"--weights: expected a file or one of {offered}, found {wanted!r}")
    network = _downloaded(lambda: models.get_model(name, weights=preset), f"torchvision:{name}")
    facts = {"source": f"torchvision:{name}", "weights": str(preset)}
    return split_torch(network, request.split, facts, request.pixels(known), device)


def _torchvision_pixels(weights: Any) -> PixelFormat:
    """Read mean and spread from the transforms that torchvision gives with weights."""
    preset = weights.transforms()
    if not hasattr(preset, "mean"):
        return PixelFormat(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # detectors: in the network
    return PixelFormat(mean=tuple(preset.mean), std=tuple(preset.std))


def _timm(request: NetworkRequest, name: str, device: torch.device) -> SplitNetwork:
    try:
        import timm
    except ImportError as error:
        raise CdvisionError("--network timm:NAME needs timm: pip install timm") from error
    weights = request.weights
    own = weights is not None and bool(Path(str(weights)).suffix)
    tagged = name if own or weights in (None, DEFAULT) else f"{name}.{weights}"
    network = _downloaded(lambda: timm.create_model(tagged, pretrained=not own), f"timm:{name}")
    data = timm.data.resolve_model_data_config(network)
    known = PixelFormat(mean=tuple(data["mean"]), std=tuple(data["std"]))
    if own:
        return _torch(request, network, f"timm:{name}", known, device)
    known_as: Any = network.pretrained_cfg
    facts = {"source": f"timm:{name}", "weights": str(known_as.get("tag", ""))}
    return split_torch(network, request.split, facts, request.pixels(known), device)


def _downloaded(make: Callable[[], nn.Module], source: str) -> nn.Module:
    try:
        return make()
    except Exception as error:  # networks, caches and hubs raise what they like
        reason = " ".join(str(error).split())[:160]
        raise CdvisionError(
            f"{source} and its weights cannot be had ({reason}): name a file with --weights"
        ) from error


def _made(request: NetworkRequest, path: Path, factory: str, device: torch.device) -> SplitNetwork:
    """Let a user's function build the network; one that takes an argument fills it itself."""
    source = f"{path.name}:{factory}"
    function = _function(path, factory)
    if not inspect.signature(function).parameters:
        return _torch(request, _called(function, source), source, PixelFormat(), device)
    weights = request.weights
    network = _called(lambda: function(weights), source)
    facts = {"source": source, "weights": "none" if weights is None else Path(weights).name}
    return split_torch(network, request.split, facts, request.pixels(PixelFormat()), device)


def _function(path: Path, name: str) -> Callable[..., Any]:
    """Import a function from a file."""
    if not path.is_file():
        raise CdvisionError(f"--network: no file {path}")
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


def _called(make: Callable[[], Any], source: str) -> Network:
    try:
        made = make()
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
    return parts if len(parts) == 2 else parts[0]


def _fill(network: Network, path: Path) -> str:
    """Load a file of weights; returns its name and hash, for the card."""
    if isinstance(network, tuple):
        raise CdvisionError("--weights: a factory that returns two parts fills them itself")
    try:
        network.load_state_dict(_read(path))
    except FileNotFoundError as error:
        raise CdvisionError(f"--weights: no file {path}") from error
    except Exception as error:  # torch, pickle and safetensors share no base
        reason = " ".join(str(error).split())[:200]
        raise CdvisionError(f"--weights: {path} does not fill the network ({reason})") from error
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.name} (SHA-256 {digest[:16]})"


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    # weights_only: a file of weights must not run code.
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    return {name.removeprefix("module."): value for name, value in loaded.items()}
