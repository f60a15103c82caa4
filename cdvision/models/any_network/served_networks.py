"""The networks that an encoder is to serve: what a command line says of them, and themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cdvision.errors import CdvisionError
from cdvision.fit.network import SplitNetwork
from cdvision.fit.sources import NetworkRequest, find_network
from cdvision.package.card import PHOTO_INPUT, FeatureSpec
from cdvision.package.tap import NAME, check_tap_name

EXPECTED = "--serve: expected NAME=NETWORK@SPLIT, such as mine=torchvision:resnet50@layer2"
PROBE_SIDE = 64  # pixels of the picture by which a network is known again
PROBE_TOLERANCE = 0.02

REPORT_FILE = "report.json"


def parse_serve(texts: Sequence[str]) -> dict[str, NetworkRequest]:
    """Read ``NAME=NETWORK@SPLIT``; the name may be left out, and the split of two parts.

    >>> parse_serve(["mine=net.py:make@layer2"])["mine"].split
    'layer2'
    >>> list(parse_serve(["torchvision:resnet50@layer2", "det/yolo.onnx@/neck/out"]))
    ['resnet50', 'yolo']

    Raises:
        CdvisionError: there is no network, two have one name, or a name cannot be one.
    """
    if not texts:
        raise CdvisionError(f"{EXPECTED}, found no network to serve")
    requests: dict[str, NetworkRequest] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or not NAME.fullmatch(name):
            name, rest = "", text
        source, at, split = rest.rpartition("@")
        if not at:
            source, split = rest, ""
        if not source:
            raise CdvisionError(f"{EXPECTED}, found {text!r}")
        name = name or _name_of(source)
        _check_name(name, requests)
        requests[name] = NetworkRequest(source, split or None)
    return requests


def _name_of(source: str) -> str:
    """Name a network after itself: its factory, its file, or its name in a library."""
    last = source.rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(last).stem if "." in last else last).strip("-_")


def _check_name(name: str, requests: Mapping[str, NetworkRequest]) -> None:
    if name in requests:
        raise CdvisionError(
            f"--serve: two networks are called {name!r}: give each a name of its own, NAME=..."
        )
    check_tap_name(name)
    if hasattr(nn.ModuleDict, name):
        raise CdvisionError(f"--serve: {name!r} cannot be a network's name: take another, NAME=...")


def with_settings(
    requests: Mapping[str, NetworkRequest], field: str, texts: Sequence[tuple[str, Any]]
) -> dict[str, NetworkRequest]:
    """Set one field of requests, from (name, value) pairs.

    Args:
        requests: by name.
        field: ``weights``, ``mean``, ``std``, ``range`` or ``order``.
        texts: an empty name stands for the only network.

    Raises:
        CdvisionError: no network is called so, or several might be meant.
    """
    found = dict(requests)
    for name, value in texts:
        if not name and len(found) > 1:
            raise CdvisionError(
                f"--{field}: say which network is meant, NAME={value}: {', '.join(found)}"
            )
        name = name or next(iter(found))
        if name not in found:
            raise CdvisionError(f"--{field}: no network is called {name!r}: {', '.join(found)}")
        found[name] = replace(found[name], **{field: value})
    return found


def open_networks(
    requests: Mapping[str, NetworkRequest], device: torch.device
) -> dict[str, SplitNetwork]:
    """Build, fill and split every network; raises CdvisionError that names the one at fault."""
    networks = {}
    for name, request in requests.items():
        try:
            networks[name] = find_network(request, device)
        except CdvisionError as error:
            raise CdvisionError(_as_served(str(error), name)) from error
    return networks


def feature_specs(
    networks: Mapping[str, SplitNetwork], device: torch.device
) -> dict[str, FeatureSpec]:
    """Return channels and stride of every network's features; raises CdvisionError."""
    specs = {}
    for name, network in networks.items():
        try:
            specs[name] = network.feature_spec(PHOTO_INPUT.multiple, device)
        except CdvisionError as error:
            raise CdvisionError(_as_served(str(error), name)) from error
    return specs


def _as_served(message: str, name: str) -> str:
    """Say a message of ``cdvision fit`` in the words of this command."""
    for option in ("--network: ", "--split: ", "--weights: "):
        if message.startswith(option):
            return f"--serve {name}: {message.removeprefix(option)}"
    return f"--serve {name}: {message.replace('--network', '--serve')}"


def describe_networks(
    requests: Mapping[str, NetworkRequest], networks: Mapping[str, SplitNetwork]
) -> dict[str, Any]:
    """Return, as JSON values, what finds the networks again and tells whether they are the same."""
    return {
        name: {
            "request": {k: _plain(v) for k, v in asdict(requests[name]).items()},
            "facts": network.facts,
            "pixels": network.pixels.to_dict(),
            "probe": _probe(network),
        }
        for name, network in networks.items()
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def networks_again(described: Mapping[str, Any]) -> dict[str, SplitNetwork]:
    """Open, on the CPU, the networks that a run served.

    Raises:
        CdvisionError: one cannot be found, or is another than it was.
    """
    requests = {}
    for name, values in described.items():
        request: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values["request"].items()
        }
        requests[name] = NetworkRequest(**request)
    networks = open_networks(requests, torch.device("cpu"))
    for name, network in networks.items():
        wanted, found = described[name]["probe"], _probe(network)
        if not np.allclose(found, wanted, rtol=PROBE_TOLERANCE, atol=1e-6):
            raise CdvisionError(
                f"--serve {name}: {network.facts['source']} gives other features than the network "
                "that the encoder was trained for: put its code and weights back, or train again"
            )
    return networks


def _probe(network: SplitNetwork) -> list[float]:
    """Describe a network by its features of one picture: mean magnitude and energy."""
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32))
    image = nn.functional.interpolate(noise, size=(PROBE_SIDE, PROBE_SIDE), mode="bilinear")
    features = network.features(image.to(network.device)).double()
    return [float(v) for v in (features.abs().mean(), features.square().mean().sqrt())]
