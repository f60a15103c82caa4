"""``cdvision train encoder`` from beginning to end: networks, photos, start, training, figures.

::

    photos ─┬─ network A's front (frozen) ─┬─ encoder ─ latents ─┬─ tap A ─▶ A's features
            └─ network B's front (frozen) ─┘                     └─ tap B ─▶ B's features
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from cdvision.building.map_tables import build_coder
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.errors import CdvisionError
from cdvision.fitting.measure import FigureSums, QualityFigures, held_out_images
from cdvision.fitting.network import SplitNetwork
from cdvision.fitting.photos import PhotoFile, find_photos, hold_out, photo_bank
from cdvision.fitting.report import REPORT_FILE, left_out_line, length_line
from cdvision.fitting.resuming import check_run, explained_full_disk
from cdvision.fitting.sources import NetworkRequest
from cdvision.fitting.streams import image_tensor, stream_size
from cdvision.fitting.tap_builder import round_to_half
from cdvision.models.any_network.graphs import NETWORK, load
from cdvision.models.any_network.network import AnyNetworkModel, AnyNetworkShape
from cdvision.models.any_network.training.options import EncoderOptions
from cdvision.models.any_network.training.stage import EncoderStage
from cdvision.models.any_network.user_networks import (
    describe_networks,
    feature_specs,
    open_networks,
)
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import PHOTO_INPUT, FeatureSpec
from cdvision.package.families import HYPERPRIOR
from cdvision.photo import fit_photo
from cdvision.training.finished import Finished
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.plan import Plan
from cdvision.training.stage_run import run_stage

SAMPLE, SAMPLE_SIDE = 16, 96  # crops that show whether features are ever below 0


@dataclass(frozen=True)
class NetworkFigures:
    """Figures of one network at every quality, and the photos that they are of."""

    network: str
    photos: int
    qualities: Sequence[QualityFigures]

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        return {**vars(self), "qualities": [one.to_dict() for one in self.qualities]}


def train_encoder(
    requests: Mapping[str, NetworkRequest],
    sources: Sequence[Path],
    out: Path,
    plan: Plan,
    options: EncoderOptions | None = None,
    *,
    splits: Mapping[str, str] | None = None,
    start: Finished | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[NetworkFigures]:
    """Train an encoder for networks, or go on where an interrupted run stopped, and measure it.

    Of the photos in ``sources``, folders or tars, those are left out that ``splits`` does not call
    ``train``. ``start`` is a run or package of the same networks to go on from, with the whole
    schedule anew. ``say`` is told what is about to happen. Raises CdvisionError.
    """
    options = options or EncoderOptions()
    networks = open_networks(requests, plan.device)
    specs = feature_specs(networks)
    training, held_out = hold_out(find_photos(sources, splits))
    bank, left_out = photo_bank(training[: options.photos], plan.device)
    if start is None:
        positive = _positive(networks, bank)
        shape = AnyNetworkShape(options.latents, specs, positive, width=options.width)
    else:
        shape = started_shape(start, specs)
    described = describe_networks(requests, networks)
    for name, network in networks.items():
        plain = "" if network.passes_gradients else "; served by plain variance"
        say(f"{name}: {network.describe(specs[name])}{plain}")
    photos = len(bank.photos)
    say(length_line(photos, "a start is computed from some hundred crops", plan))
    if left_out:
        say(left_out_line(left_out))
    stage = EncoderStage(shape, networks, bank, plan, options.targets, start=start)
    identity = {
        "networks": {k: {f: v[f] for f in ("facts", "pixels")} for k, v in described.items()},
        "shape": asdict(shape),
        "photos": photos,
        "batch": plan.batch,
        "seed": plan.seed,
        "targets": list(options.targets),
    }
    check_run(out, identity, sum(value.numel() for value in stage.model.parameters()))
    with explained_full_disk(out):
        facts = {"networks": described, "shape": asdict(shape)}
        trained = cast(AnyNetworkModel, run_stage(stage, out, plan, facts))
        # Measured as it will be stored: figures are of what a user loads.
        round_to_half(trained)
        figures = measure_networks(trained, networks, held_out, plan.device)
        text = json.dumps([one.to_dict() for one in figures], indent=1)
        (out / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    return figures


def started_shape(start: Finished, specs: Mapping[str, FeatureSpec]) -> AnyNetworkShape:
    """Return the shape of a run's or package's model; raises CdvisionError for other networks."""
    start.require_network(NETWORK)
    if start.card is not None:
        shape = load(start.weights_path).shape
    elif "shape" in start.record:
        shape = AnyNetworkShape.from_dict(start.record["shape"])
    else:
        raise CdvisionError(f"{start.folder}: expected a run of `cdvision train encoder`")
    if dict(shape.features) != dict(specs):
        served, asked = (
            {name: f"{spec.channels}@1/{spec.stride}" for name, spec in part.items()}
            for part in (shape.features, specs)
        )
        raise CdvisionError(f"{start.folder} serves {served}: expected {asked}, as --serve says")
    return shape


def _positive(networks: Mapping[str, SplitNetwork], bank: PhotoBank) -> tuple[str, ...]:
    """Return the networks whose features were never below 0 on the first photos."""
    first = range(min(SAMPLE, len(bank.photos)))
    image = bank.crops(first, SAMPLE_SIDE, np.random.default_rng(0))
    return tuple(name for name, one in networks.items() if float(one.features(image).min()) >= 0)


@torch.no_grad()
def measure_networks(
    model: AnyNetworkModel,
    networks: Mapping[str, SplitNetwork],
    files: Sequence[PhotoFile],
    device: torch.device,
) -> list[NetworkFigures]:
    """Measure a trained model on held-out photos, with streams as a sender would write them."""
    coder = build_coder(copy.deepcopy(model.eval()).cpu())  # the model stays where it is
    levels = torch.arange(QUALITIES, device=device)
    sums = {name: FigureSums(QUALITIES) for name in networks}
    for photo in (fit_photo(image, PHOTO_INPUT) for image in held_out_images(files)):
        image = image_tensor(photo.pixels, device)
        features = {name: network.features(image) for name, network in networks.items()}
        gathered = model.encoder.gather(list(features.values())).expand(QUALITIES, -1, -1, -1)
        symbols, hyper = model.encode_features(gathered, levels)
        integers = (part.cpu().numpy().astype(np.int32) for part in (symbols, hyper))
        received = [
            # Symbols that are skipped never arrive, and cost nothing.
            coder.received({SYMBOLS: s, HYPER: z}, level)
            for level, (s, z) in enumerate(zip(*integers, strict=True))
        ]
        sizes = [
            stream_size(HYPERPRIOR, coder, one, level + 1, photo.source_size, photo.pixels)
            for level, one in enumerate(received)
        ]
        arrived = torch.from_numpy(np.stack([one[SYMBOLS] for one in received])).to(symbols)
        y = model.dequantiser(arrived, hyper, levels)
        for name, target in features.items():
            found = model.tap(name)(y, levels)
            sums[name].add_features(found, target, sizes)
            sums[name].add_outputs(networks[name].outputs(found), networks[name].outputs(target))
    return [NetworkFigures(name, one.photos, one.figures()) for name, one in sums.items()]


def figures_table(figures: Sequence[NetworkFigures]) -> str:
    """Return the figures of all networks side by side, as text."""
    width = max(18, *(len(one.network) for one in figures))
    heads = "".join(f"  {one.network:>{width}}" for one in figures)
    lines = [f"quality  bytes{heads}   (explained variance, {figures[0].photos} photos held out)"]
    for rows in zip(*(one.qualities for one in figures), strict=True):
        values = "".join(f"  {row.explained_variance:>{width}.3f}" for row in rows)
        lines.append(f"{rows[0].quality:>7}  {rows[0].bytes:>5.0f}{values}")
    return "\n".join(lines)
