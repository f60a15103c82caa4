"""The networks that an encoder is for: what a command line says of them, and themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from cdvision.errors import CdvisionError
from cdvision.fitting.network import SplitNetwork
from cdvision.fitting.sources import NetworkRequest, find_network
from cdvision.package.card import PHOTO_INPUT, FeatureSpec
from cdvision.package.tap import NAME, check_tap_name

EXPECTED = "--serve: expected NAME=NETWORK@SPLIT, such as mine=torchvision:resnet50@layer2"
PROBE_SIDE = 64  # pixels of the picture by which a network is known again
PROBE_TOLERANCE = 0.02  # for the rounding of other machines
Given = TypeVar("Given")
Made = TypeVar("Made")


def parse_networks(texts: Sequence[str]) -> dict[str, NetworkRequest]:
    """Read ``NAME=NETWORK@SPLIT``; the name may be left out, and the split of two parts.

    >>> parse_networks(["mine=net.py:make@layer2"])["mine"].split
    'layer2'
    >>> list(parse_networks(["torchvision:resnet50@layer2", "det/yolo.onnx@/neck/out"]))
    ['resnet50', 'yolo']

    Raises CdvisionError where there is no network, two have one name, or a name cannot be one.
    """
    if not texts:
        raise CdvisionError(f"{EXPECTED}, found no network to serve")
    requests: dict[str, NetworkRequest] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        # A path may hold an equals sign, too: what is before it is then no name.
        if not equals or not NAME.fullmatch(name):
            name, rest = "", text
        source, at, split = rest.rpartition("@")
        if not at:
            source, split = rest, ""
        if not source:
            raise CdvisionError(f"{EXPECTED}, found {text!r}")
        name = name or _name_of(source)
        if name in requests:
            raise CdvisionError(
                f"--serve: two networks are called {name!r}: give each a name of its own, NAME=..."
            )
        check_tap_name(name)
        # Networks are entries of a ModuleDict, which refuses the names of its own methods.
        if hasattr(nn.ModuleDict, name):
            raise CdvisionError(
                f"--serve: {name!r} cannot be a network's name: take another, NAME=..."
            )
        requests[name] = NetworkRequest(source, split or None)
    return requests


def _name_of(source: str) -> str:
    """Name a network after itself: its factory, its file, or its name in a library."""
    last = source.rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(last).stem if "." in last else last).strip("-_")


def open_networks(
    requests: Mapping[str, NetworkRequest], device: torch.device
) -> dict[str, SplitNetwork]:
    """Build, fill and split every network; raises CdvisionError that names the one at fault."""
    return _for_each(requests, lambda request: find_network(request, device))


def feature_specs(networks: Mapping[str, SplitNetwork]) -> dict[str, FeatureSpec]:
    """Return channels and stride of every network's features; raises CdvisionError."""
    return _for_each(networks, lambda network: network.feature_spec(PHOTO_INPUT.multiple))


def _for_each(given: Mapping[str, Given], make: Callable[[Given], Made]) -> dict[str, Made]:
    """Say what ``cdvision fit`` would say of a network in the words of this command."""
    made = {}
    for name, one in given.items():
        try:
            made[name] = make(one)
        except CdvisionError as error:
            message = re.sub("^--(network|split|weights): ", "", str(error))
            message = message.replace("--network", "--serve")
            raise CdvisionError(f"--serve {name}: {message}") from error
    return made


def describe_networks(
    requests: Mapping[str, NetworkRequest], networks: Mapping[str, SplitNetwork]
) -> dict[str, Any]:
    """Return, as JSON values, what finds the networks again and tells whether they are the same."""
    return {
        name: {
            "request": json.loads(json.dumps(asdict(requests[name]), default=str)),
            "facts": network.facts,
            "pixels": asdict(network.pixels),
            "probe": _probe(network),
        }
        for name, network in networks.items()
    }


def networks_again(described: Mapping[str, Any]) -> dict[str, SplitNetwork]:
    """Open, on the CPU, the networks of a run; raises CdvisionError where one is another now."""
    requests = {}
    for name, values in described.items():
        # JSON made lists of mean and spread.
        told = values["request"].items()
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told}
        requests[name] = NetworkRequest(**fields)
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
    # Smooth noise has structure at every scale; numpy draws the same on every machine.
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32))
    image = nn.functional.interpolate(noise, size=(PROBE_SIDE, PROBE_SIDE), mode="bilinear")
    features = network.features(image.to(network.device)).double()
    return [float(v) for v in (features.abs().mean(), features.square().mean().sqrt())]
