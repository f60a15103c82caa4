"""``cdvision fit`` from beginning to end: photos, network, regression, training, figures, package.

::

    photos ─┬─ encoder (frozen) ─ latents ─ tap ─▶ features'  ─┐ as alike as they can be
            └─ network's front (frozen) ────────▶ features   ─┘
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from torch import nn

from cdvision.errors import CdvisionError
from cdvision.fit.examples import ExampleMaker, ExampleSource
from cdvision.fit.finish import FittedParts, finish_fit
from cdvision.fit.network import SplitNetwork, TorchNetwork
from cdvision.fit.options import FitOptions
from cdvision.fit.photos import find_photos, hold_out
from cdvision.fit.report import FitReport
from cdvision.fit.resuming import (
    check_options,
    check_room,
    run_identity,
    run_progress,
)
from cdvision.fit.sources import NetworkRequest, find_network
from cdvision.fit.stage import TapStage
from cdvision.fit.streams import StreamReader
from cdvision.networks.fitted_tap import FittedTap, TapShape
from cdvision.package.card import FeatureSpec
from cdvision.package.loader import load_package
from cdvision.package.registry import DEFAULT_MODEL, model_folder
from cdvision.package.tap import check_tap_name, is_tap
from cdvision.training.plan import Plan
from cdvision.training.run_folder import RECORD
from cdvision.training.stage_run import run_stage

RUN = "run"  # folder of checkpoint and log inside the tap's
LOG = "log.jsonl"
MEGABYTE = 2**20


def fit_tap(
    request: NetworkRequest,
    images: Sequence[Path],
    out: Path,
    *,
    model: str | Path = DEFAULT_MODEL,
    name: str | None = None,
    splits: Mapping[str, str] | None = None,
    options: FitOptions | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> FitReport:
    """Fit a tap, or go on where an interrupted run stopped, and write its folder.

    Args:
        request: the network, its split point, its weights and its input.
        images: folders or tars of photos; labels are not needed.
        out: folder of the tap.
        model: whose streams; it stays as it is.
        name: of the tap; the folder's where None.
        splits: split of some files; one that is not ``train`` is left out.
        options: how.
        say: told what is about to happen, and how long it should take.

    Raises:
        CdvisionError: something does not fit, or the disk is full; the message says what to do.
    """
    options = options or FitOptions()
    name = name or out.resolve().name
    check_tap_name(name)
    if is_tap(out):
        raise CdvisionError(f"{out} holds a finished tap: name another folder, or remove it")
    package = load_package(model_folder(model))
    if name in package.card.tails:
        raise CdvisionError(
            f"model {package.card.name!r} has a tail {name!r} already: take another name"
        )
    training, held_out = hold_out(find_photos(images, splits))
    training = training[: options.photos]
    plan = options.plan()
    network = find_network(request, plan.device)
    if options.tune_tail and not isinstance(network, TorchNetwork):
        raise CdvisionError("--tune-tail: an ONNX network cannot be trained, only read")
    reader = StreamReader(package, plan.device, options.size)
    features = network.feature_spec(package.card.input.multiple, plan.device)
    maker = ExampleMaker(reader, network, options.seed)
    room = None if options.memory is None else options.memory * MEGABYTE
    source = ExampleSource(maker, training, plan.batch, options.seed, room)
    shape = replace(
        tap_shape(reader.source, features, options),
        qualities=package.card.qualities,
        positive=source.positive,
    )
    for line in _announcement(name, network, features, source, len(training), plan):
        say(line)
    run = out / RUN
    stage = TapStage(shape, source, network, plan, tune_tail=options.tune_tail)
    check_room(out, sum(value.numel() for value in stage.tap.parameters()))
    check_options(run, run_identity(package, network, options, training, shape))
    facts = {"photos": len(training), "options": asdict(options)}
    try:
        if (progress := run_progress(run)) is None or plan.done(progress) < 1:
            source.window(0 if progress is None else progress.step)  # before the clock runs
        trained = run_stage(stage, run, plan, facts)
    except (OSError, SafetensorError) as error:
        raise CdvisionError(
            f"{run} cannot be written ({error}): make room and start the same command again"
        ) from error
    finally:
        source.close()
    record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    parts = FittedParts(
        name=name,
        reader=reader,
        network=network,
        features=features,
        tap=cast(FittedTap, cast(nn.ModuleDict, trained)["tap"]),
        tail=stage.tail,
        record=record,
        left_out=maker.left_out,
    )
    report = finish_fit(parts, held_out, out)
    shutil.copyfile(run / LOG, out / LOG)
    shutil.rmtree(run)
    return report


def _announcement(
    name: str,
    network: SplitNetwork,
    features: FeatureSpec,
    source: ExampleSource,
    photos: int,
    plan: Plan,
) -> Iterator[str]:
    facts = network.facts
    yield (
        f"{name}: {facts['source']} at {facts['split']}, {features.channels} channels at "
        f"1/{features.stride}; input {network.pixels}; weights {facts['weights']}"
    )
    before = source.seconds_before_training / 60
    length = f"{plan.minutes:g} minutes" if plan.steps is None else f"{plan.steps} steps"
    yield (
        f"{photos} photos: about {before:.1f} minutes to encode them, then {length} of training"
        f"{' in bfloat16' if plan.bf16 else ''} on {plan.device.type}, then the report"
    )


def tap_shape(source: FeatureSpec, features: FeatureSpec, options: FitOptions) -> TapShape:
    """Return the shape of a tap between two maps; raises CdvisionError where cells do not nest."""
    fine, coarse = sorted((source.stride, features.stride))
    if coarse % fine:
        raise CdvisionError(
            f"features at 1/{features.stride}: expected a stride that divides {source.stride}, or "
            "a multiple of it"
        )
    return TapShape(
        source=source.channels,
        features=features.channels,
        up=source.stride // fine,
        down=features.stride // fine,
        width=options.width,
        depth=options.depth,
    )
