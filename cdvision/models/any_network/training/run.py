"""``cdvision train encoder`` from beginning to end: networks, photos, start, training, figures.

::

    photos ─┬─ network A's front (frozen) ─┬─ encoder ─ latents ─┬─ tap A ─▶ A's features
            └─ network B's front (frozen) ─┘                     └─ tap B ─▶ B's features
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError

from cdvision.errors import CdvisionError
from cdvision.fit.network import SplitNetwork, TorchNetwork
from cdvision.fit.photos import find_photos, hold_out
from cdvision.fit.report import left_out_line
from cdvision.fit.resuming import check_options, check_room
from cdvision.fit.sources import NetworkRequest
from cdvision.fit.tap_builder import round_to_half
from cdvision.models.any_network.graphs import load
from cdvision.models.any_network.network import Served, ServedShape
from cdvision.models.any_network.served_networks import (
    REPORT_FILE,
    describe_networks,
    feature_specs,
    open_networks,
)
from cdvision.models.any_network.training.measure import NetworkFigures, measure_served
from cdvision.models.any_network.training.options import EncoderOptions
from cdvision.models.any_network.training.photos import photo_bank
from cdvision.models.any_network.training.stage import EncoderStage
from cdvision.package.card import FeatureSpec
from cdvision.training.finished import Finished
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.plan import Plan
from cdvision.training.stage_run import run_stage

SAMPLE, SAMPLE_SIDE = 16, 96  # crops that show whether features are ever below 0


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

    Args:
        requests: the networks to serve, by name.
        sources: folders or tars of photos; labels are not needed.
        out: folder of the run.
        plan: how long and where.
        options: how.
        splits: split of some files; one that is not ``train`` is left out.
        start: run or package of the same networks to go on from, with the whole schedule anew.
        say: told what is about to happen.

    Raises:
        CdvisionError: something does not fit, or the disk is full; the message says what to do.
    """
    options = options or EncoderOptions()
    networks = open_networks(requests, plan.device)
    specs = feature_specs(networks, plan.device)
    training, held_out = hold_out(find_photos(sources, splits))
    bank, left_out = photo_bank(training[: options.photos], plan.device)
    if start is None:
        positive = _positive(networks, bank)
        shape = ServedShape(options.latents, specs, positive, width=options.width)
    else:
        shape = started_shape(start, specs)
    described = describe_networks(requests, networks)
    for line in _announcement(networks, shape, len(bank.photos), plan):
        say(line)
    if left_out:
        say(left_out_line(left_out))
    stage = EncoderStage(shape, networks, bank, plan, options.targets, start=start)
    check_room(out, sum(value.numel() for value in stage.model.parameters()))
    check_options(out, _identity(described, shape, len(bank.photos), plan, options))
    facts = {"networks": described, "shape": shape.to_dict()}
    try:
        trained = cast(Served, run_stage(stage, out, plan, facts))
        round_to_half(trained)
        figures = measure_served(trained, networks, held_out, plan.device)
        _write_report(figures, out)
    except (OSError, SafetensorError) as error:
        raise CdvisionError(
            f"{out} cannot be written ({error}): make room and start the same command again"
        ) from error
    return figures


def started_shape(start: Finished, specs: Mapping[str, FeatureSpec]) -> ServedShape:
    """Return the shape of a run's or package's model; raises CdvisionError for other networks."""
    start.require_network("served")
    if start.card is not None:
        shape = load(start.weights_path).shape
    elif "shape" in start.record:
        shape = ServedShape.from_dict(start.record["shape"])
    else:
        raise CdvisionError(f"{start.folder}: expected a run of `cdvision train encoder`")
    if dict(shape.features) != dict(specs):
        served, asked = ({n: f"{s.channels}@1/{s.stride}" for n, s in part.items()}
                         for part in (shape.features, specs))  # fmt: skip
        raise CdvisionError(f"{start.folder} serves {served}: expected {asked}, as --serve says")
    return shape


def _positive(networks: Mapping[str, SplitNetwork], bank: PhotoBank) -> tuple[str, ...]:
    """Return the networks whose features were never below 0 on the first photos."""
    first = range(min(SAMPLE, len(bank.photos)))
    image = bank.crops(first, SAMPLE_SIDE, np.random.default_rng(0))
    features = {name: network.features(image) for name, network in networks.items()}
    return tuple(name for name, found in features.items() if float(found.min()) >= 0)


def _identity(
    described: Mapping[str, Any],
    shape: ServedShape,
    photos: int,
    plan: Plan,
    options: EncoderOptions,
) -> dict[str, Any]:
    """Return what must not change when a run is resumed."""
    networks = {k: {f: v[f] for f in ("facts", "pixels")} for k, v in described.items()}
    return {
        "networks": networks,
        "shape": shape.to_dict(),
        "photos": photos,
        "batch": plan.batch,
        "seed": plan.seed,
        "targets": list(options.targets),
    }


def _announcement(
    networks: Mapping[str, SplitNetwork], shape: ServedShape, photos: int, plan: Plan
) -> Iterator[str]:
    for name, network in networks.items():
        facts, spec = network.facts, shape.features[name]
        plain = "" if isinstance(network, TorchNetwork) else "; served by plain variance"
        yield (
            f"{name}: {facts['source']} at {facts['split']}, {spec.channels} channels at "
            f"1/{spec.stride}; input {network.pixels}; weights {facts['weights']}{plain}"
        )
    length = f"{plan.minutes:g} minutes" if plan.steps is None else f"{plan.steps} steps"
    yield (
        f"{photos} photos: a start is computed from some hundred crops, then {length} of training"
        f"{' in bfloat16' if plan.bf16 else ''} on {plan.device.type}, then the report"
    )


def _write_report(figures: Sequence[NetworkFigures], out: Path) -> None:
    text = json.dumps([one.to_dict() for one in figures], indent=1)
    (out / REPORT_FILE).write_text(text + "\n", encoding="utf-8")


def figures_table(figures: Sequence[NetworkFigures]) -> str:
    """Return the figures of all networks side by side, as text."""
    first = figures[0].qualities
    width = max(18, *(len(one.network) for one in figures))
    heads = "".join(f"  {one.network:>{width}}" for one in figures)
    lines = [f"quality  bytes{heads}   (explained variance, {figures[0].photos} photos held out)"]
    for place, row in enumerate(first):
        values = "".join(
            f"  {one.qualities[place].explained_variance:>{width}.3f}" for one in figures
        )
        lines.append(f"{row.quality:>7}  {row.bytes:>5.0f}{values}")
    return "\n".join(lines)
