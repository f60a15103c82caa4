"""The package of a run of ``cdvision train encoder``: graphs of the networks are part of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cdvision.building.card_parts import map_latents, one_sender
from cdvision.building.map_tables import build_coder
from cdvision.building.package_builder import PackageFacts, write_package
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.errors import CdvisionError
from cdvision.export.onnx_graphs import export_graph
from cdvision.export.parity import check_parity
from cdvision.fitting.network import SplitNetwork, TorchNetwork
from cdvision.fitting.onnx_network import OnnxNetwork
from cdvision.fitting.report import REPORT_FILE
from cdvision.fitting.resuming import explained_full_disk
from cdvision.fitting.tap_builder import (
    export_checked,
    one_line,
    round_to_half,
    save_weights,
    write_answer,
)
from cdvision.models.any_network.graphs import (
    NETWORK,
    encoder_graph,
    features_input,
    receiver_graph,
)
from cdvision.models.any_network.network import AnyNetworkModel, AnyNetworkShape
from cdvision.models.any_network.onnx_front import prepend_fronts
from cdvision.models.any_network.user_networks import networks_again
from cdvision.networks.latent_model import HYPER_CHANNELS, HYPER_STRIDE, LATENT_STRIDE
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import PHOTO_INPUT, ModelCard, TailSpec
from cdvision.package.families import HYPERPRIOR
from cdvision.package.loader import WEIGHTS_FILE
from cdvision.package.tap import RAW, check_tap_name
from cdvision.training.finished import fill_module, open_finished
from cdvision.training.run_folder import read_record


def build_model_package(run: Path, folder: Path) -> tuple[ModelCard, dict[str, str]]:
    """Write the package of a finished run into a folder, whose name is the model's.

    Returns the card, and why, by name, the outputs of networks are not in the package. Raises
    CdvisionError where a network is not what it was, or a graph differs from its module.
    """
    name = folder.resolve().name
    check_tap_name(name)
    record = read_record(run)
    networks = networks_again(record["networks"])
    model = AnyNetworkModel(AnyNetworkShape.from_dict(record["shape"]))
    fill_module(model, open_finished(run).weights(), run)
    parts = _Parts(model.eval().requires_grad_(False), networks)
    training = {k: v for k, v in record.items() if k not in ("networks", "shape")}
    facts = PackageFacts({}, training, tuple(_metrics(run)))
    coder = build_coder(model)
    card = _card(name, model, coder, networks)
    with explained_full_disk(folder):
        card = write_package(card, coder, folder, facts, parts.save, parts.write_graphs)
    return card, parts.problems


def _metrics(run: Path) -> list[dict[str, Any]]:
    path = run / REPORT_FILE
    if not path.is_file():
        raise CdvisionError(f"{run}: expected {REPORT_FILE}: let `cdvision train encoder` finish")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [{"task": "features", "data": "held-out photos", **entry} for entry in found]


def _card(
    name: str, model: AnyNetworkModel, coder: HyperpriorCoder, networks: Mapping[str, SplitNetwork]
) -> ModelCard:
    described = {
        name: f"{network.facts['source']} after {network.facts['split']}"
        for name, network in networks.items()
    }
    features = model.shape.features
    return ModelCard(
        name=name,
        description=f"Features for {', '.join(described.values())}, from one stream.",
        network=NETWORK,
        codec=HYPERPRIOR,
        fingerprint="",
        qualities=QUALITIES,
        default_quality=4,
        latents=map_latents(
            coder, (model.shape.channels, LATENT_STRIDE), (HYPER_CHANNELS, HYPER_STRIDE)
        ),
        senders=one_sender(coder),
        input=PHOTO_INPUT,
        tails={
            name: TailSpec((), features[name], classes="", description=text, head=RAW)
            for name, text in described.items()
        },
        licence="of the networks that it serves",
        provenance=tuple(
            {
                "part": f"fronts.{name}, tails.{name}",
                "initialised_from": f"{described[name]}, weights {network.facts['weights']}",
                "licence": "its owner's",
            }
            for name, network in networks.items()
        ),
        training={},
        metrics=(),
    )


class _Parts:
    """What the package's weights and graphs are made of."""

    def __init__(self, model: AnyNetworkModel, networks: Mapping[str, SplitNetwork]) -> None:
        self.model, self.networks = model, networks
        self.problems: dict[str, str] = {}  # why outputs could not be exported, by network
        self.onnx = {k: n for k, n in networks.items() if isinstance(n, OnnxNetwork)}
        traced = {k: n for k, n in networks.items() if isinstance(n, TorchNetwork)}
        self.fronts = {k: n.front for k, n in traced.items()}
        self.tails = {k: n.tail for k, n in traced.items()}
        for part in (*self.fronts.values(), *self.tails.values()):
            round_to_half(part.float())  # graphs are compared with what the file holds

    def save(self, path: Path) -> None:
        """Write everything that graphs share, and the shape that the model is built again from."""
        parts = dict(self.model.named_children())
        parts |= {"fronts": nn.ModuleDict(self.fronts), "tails": nn.ModuleDict(self.tails)}
        save_weights(parts, path, {NETWORK: json.dumps(asdict(self.model.shape))})

    def write_graphs(self, folder: Path) -> Sequence[str]:
        """Write the encoder, and for each network a tap alone and, if it can be, with its tail."""
        self._write_encoder(folder / "encoder.onnx", folder / WEIGHTS_FILE)
        files = ["encoder.onnx"]
        for name, network in self.networks.items():
            tap, answer = folder / f"tap.{name}.onnx", folder / f"answer.{name}.onnx"
            export_checked(receiver_graph(self.model, name), tap)
            files.append(tap.name)
            channels = self.model.shape.features[name].channels
            graph = partial(receiver_graph, self.model, name)
            outputs, problem = write_answer(answer, tap, network.tail, channels, graph)
            if outputs:
                files.append(answer.name)
            else:
                self.problems[name] = problem
        return files

    def _write_encoder(self, path: Path, weights: Path) -> None:
        try:
            export_graph(encoder_graph(self.model, self.fronts, tuple(self.onnx)), path, weights)
            prepend_fronts(path, {features_input(k): n for k, n in self.onnx.items()})
        except OSError:  # a full disk is no property of the networks
            raise
        except Exception as error:  # exporters and users' networks raise what they like
            raise CdvisionError(
                f"the fronts of {', '.join(self.networks)} cannot be exported ({one_line(error)}): "
                "give --serve a factory that returns two parts whose front can be, (front, tail)"
            ) from error
        # The whole is compared with networks as their own engines run them.
        fronts = {k: self.fronts.get(k) or _Features(n) for k, n in self.networks.items()}
        check_parity(encoder_graph(self.model, fronts), path)


class _Features(nn.Module):
    """A network's front as a module, whatever runs it."""

    def __init__(self, network: SplitNetwork) -> None:
        super().__init__()
        self._network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in 0..255 to features."""
        return self._network.features(image)
