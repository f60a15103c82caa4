"""The package of a run of ``cdvision train encoder``: a model that serves its user's networks.

Needs the ``train`` extra and the networks, whose graphs become part of the package; using the
package needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdvision.building.card_parts import map_latents, one_sender
from cdvision.building.map_tables import build_coder
from cdvision.building.package_builder import PackageFacts, write_package
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.errors import CdvisionError, ModelError
from cdvision.export.onnx_graphs import export_graph
from cdvision.export.parity import check_parity
from cdvision.fit.network import SplitNetwork, TorchNetwork
from cdvision.fit.onnx_network import OnnxNetwork
from cdvision.fit.tap_builder import TOLERANCE, merge_answer, round_to_half, save_weights
from cdvision.models.any_network.graphs import (
    SHAPE,
    answer_graph,
    encoder_graph,
    features_input,
    tap_graph,
)
from cdvision.models.any_network.network import Served, ServedShape
from cdvision.models.any_network.onnx_front import OnnxFront, prepend_fronts
from cdvision.models.any_network.served_networks import REPORT_FILE, networks_again
from cdvision.networks.graphs import Graph
from cdvision.networks.latent_model import HYPER_CHANNELS, HYPER_STRIDE, LATENT_STRIDE
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import PHOTO_INPUT, ModelCard, TailSpec
from cdvision.package.families import HYPERPRIOR
from cdvision.package.loader import WEIGHTS_FILE
from cdvision.package.tap import RAW, check_tap_name
from cdvision.training.finished import fill_module, open_finished
from cdvision.training.run_folder import read_record

NETWORK = "served"


def build_served(run: Path, folder: Path) -> tuple[ModelCard, dict[str, str]]:
    """Write the package of a finished run; the folder's name is the model's.

    Args:
        run: folder of the run.
        folder: where to write; created, its files overwritten.

    Returns:
        The card, and, for each network whose outputs the package cannot give, why not.

    Raises:
        ModelError: a sum of the integer network could reach 2^24, or a graph differs from its
            module.
        CdvisionError: a network is not what it was, or its front cannot be exported.
    """
    name = folder.resolve().name
    check_tap_name(name)
    record = read_record(run)
    networks = networks_again(record["networks"])
    model = _model(run, record)
    parts = _Parts(model, networks)
    training = {k: v for k, v in record.items() if k not in ("networks", "shape")}
    facts = PackageFacts({}, training, tuple(_metrics(run)))
    coder = build_coder(model)
    card = _card(name, model, coder, networks)
    try:
        card = write_package(card, coder, folder, facts, parts.save, parts.write_graphs)
    except OSError as error:
        raise CdvisionError(
            f"{folder} cannot be written ({error.strerror}): make room and start the same command "
            "again, nothing of the training is lost"
        ) from error
    return card, parts.problems


def _model(run: Path, record: Mapping[str, Any]) -> Served:
    model = Served(ServedShape.from_dict(record["shape"]))
    fill_module(model, open_finished(run).weights(), run)
    return model.eval().requires_grad_(False)


def _metrics(run: Path) -> list[dict[str, Any]]:
    path = run / REPORT_FILE
    if not path.is_file():
        raise CdvisionError(f"{run}: expected {REPORT_FILE}: let `cdvision train encoder` finish")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [{"task": "features", "data": "held-out photos", **entry} for entry in found]


def _card(
    name: str, model: Served, coder: HyperpriorCoder, networks: Mapping[str, SplitNetwork]
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


@dataclass
class _Parts:
    """What the package's weights and graphs are made of.

    Attributes:
        problems: why a network's outputs could not be exported, by name.
    """

    model: Served
    networks: Mapping[str, SplitNetwork]
    problems: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fronts = {k: n.front for k, n in self._torch()}
        self.tails = {k: n.named_tail for k, n in self._torch()}
        for part in (*self.fronts.values(), *self.tails.values()):
            round_to_half(part.float())  # graphs are compared with what the file holds

    def _torch(self) -> list[tuple[str, TorchNetwork]]:
        return [(k, n) for k, n in self.networks.items() if isinstance(n, TorchNetwork)]

    def _onnx(self) -> dict[str, OnnxNetwork]:
        return {k: n for k, n in self.networks.items() if isinstance(n, OnnxNetwork)}

    def save(self, path: Path) -> None:
        """Write everything that graphs share, and the shape that the model is built again from."""
        parts = dict(self.model.named_children())
        parts |= {"fronts": nn.ModuleDict(self.fronts), "tails": nn.ModuleDict(self.tails)}
        save_weights(parts, path, {SHAPE: json.dumps(self.model.shape.to_dict())})

    def write_graphs(self, folder: Path) -> Sequence[str]:
        """Write the encoder, and for each network a tap alone and, if it can be, with its tail."""
        self._write_encoder(folder / "encoder.onnx", folder / WEIGHTS_FILE)
        files = ["encoder.onnx"]
        for name in self.networks:
            files.append(f"tap.{name}.onnx")
            _export(tap_graph(self.model, name), folder / files[-1])
            answer = folder / f"answer.{name}.onnx"
            try:
                self._write_answer(name, folder / files[-1], answer)
                files.append(answer.name)
            except OSError:  # a full disk is no property of the network
                raise
            except Exception as error:  # exporters and users' networks raise what they like
                answer.unlink(missing_ok=True)
                self.problems[name] = _reason(error)
        return files

    def _write_encoder(self, path: Path, weights: Path) -> None:
        given = self._onnx()
        try:
            export_graph(encoder_graph(self.model, self.fronts, tuple(given)), path, weights)
            prepend_fronts(path, {features_input(k): _onnx_front(n) for k, n in given.items()})
        except OSError:  # as above
            raise
        except Exception as error:  # as above
            raise CdvisionError(
                f"the fronts of {', '.join(self.networks)} cannot be exported ({_reason(error)}): "
                "give --serve a factory that returns two parts whose front can be, (front, tail)"
            ) from error
        fronts = {k: self.fronts.get(k) or _Features(n) for k, n in self.networks.items()}
        check_parity(encoder_graph(self.model, fronts), path)

    def _write_answer(self, name: str, tap: Path, path: Path) -> None:
        network = self.networks[name]
        if isinstance(network, OnnxNetwork):
            merge_answer(tap, network.tail, path)
            return
        tail, spec = self.tails[name], self.model.shape.features[name]
        with torch.no_grad():
            found: Mapping[str, Tensor] = tail(torch.zeros(1, spec.channels, 16, 16))
        if "features" in found:
            raise ModelError("an output of the network is called 'features', as the tap's own is")
        graph = answer_graph(self.model, name, tail, tuple(found))
        _export(graph, path, tolerance=TOLERANCE)


class _Features(nn.Module):
    """A network's front as a module, whatever runs it."""

    def __init__(self, network: SplitNetwork) -> None:
        super().__init__()
        self._network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in 0..255 to features."""
        return self._network.features(image)


def _onnx_front(network: OnnxNetwork) -> OnnxFront:
    pixels = network.normalise
    scale, shift = pixels.scale.numpy(), pixels.shift.numpy()
    return OnnxFront(network.front, scale, shift, network.pixels.order == "bgr")


def _export(graph: Graph, path: Path, **options: float) -> None:
    export_graph(graph, path, path.parent / WEIGHTS_FILE)
    check_parity(graph, path, **options)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
