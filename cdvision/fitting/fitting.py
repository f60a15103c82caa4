"""``cdvision fit`` from beginning to end: photos, network, regression, training, figures, package.

::

    photos ─┬─ encoder (frozen) ─ latents ─ tap ─▶ features'  ─┐ as alike as they can be
            └─ network's front (frozen) ────────▶ features   ─┘
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from torch import nn

from cdvision.errors import CdvisionError
from cdvision.fitting.examples import ExampleMaker, ExampleSource
from cdvision.fitting.measure import measure_tap
from cdvision.fitting.options import FitOptions
from cdvision.fitting.photos import PhotoFile, find_photos, hold_out
from cdvision.fitting.report import FitReport, length_line
from cdvision.fitting.resuming import check_run, explained_full_disk, run_progress
from cdvision.fitting.sources import NetworkRequest, find_network
from cdvision.fitting.stage import TapStage
from cdvision.fitting.streams import StreamReader
from cdvision.fitting.tap_builder import round_to_half, write_tap
from cdvision.networks.fitted_tap import FittedTap, TapShape
from cdvision.package.card import FeatureSpec
from cdvision.package.loader import load_package
from cdvision.package.registry import DEFAULT_MODEL, model_folder
from cdvision.package.tap import TapCard, check_tap_name, is_tap
from cdvision.training.run_folder import LOG, read_record
from cdvision.training.stage_run import run_stage

RUN = "run"  # folder of checkpoint and log inside the tap's


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

    Of the photos in ``images``, folders or tars, those are left out that ``splits`` does not call
    ``train``. ``say`` is told what is about to happen. Raises CdvisionError that says what to do.
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
    if options.tune_tail and not network.passes_gradients:
        raise CdvisionError("--tune-tail: an ONNX network cannot be trained, only read")
    reader = StreamReader(package, plan.device, options.size)
    features = network.feature_spec(package.card.input.multiple)
    maker = ExampleMaker(reader, network, options.seed)
    room = None if options.memory is None else options.memory * 2**20
    source = ExampleSource(maker, training, plan.batch, options.seed, room)
    shape = replace(
        tap_shape(reader.source, features, options),
        qualities=package.card.qualities,
        positive=source.positive,
    )
    say(f"{name}: {network.describe(features)}")
    before = f"about {source.seconds_before_training / 60:.1f} minutes to encode them"
    say(length_line(len(training), before, plan))
    run = out / RUN
    stage = TapStage(shape, source, network, plan, tune_tail=options.tune_tail)
    identity = {
        "model": package.card.fingerprint,
        "network": network.facts,
        "pixels": asdict(network.pixels),
        "photos": len(training),
        "tap": asdict(shape),
        "size": options.size,
        "tune_tail": options.tune_tail,
        "batch": options.batch,
        "seed": options.seed,
    }
    check_run(run, identity, sum(value.numel() for value in stage.tap.parameters()))
    facts = {"photos": len(training), "options": asdict(options)}
    try:
        with explained_full_disk(run):
            progress = run_progress(run)
            if progress is None or plan.done(progress) < 1:
                # Encoded before the clock runs: the minutes are of training.
                source.window(0 if progress is None else progress.step)
            trained = run_stage(stage, run, plan, facts)
    finally:
        source.close()
    tap = cast(FittedTap, cast(nn.ModuleDict, trained)["tap"])
    report = finish_fit(name, features, tap, stage.tail, maker, held_out, out)
    shutil.copyfile(run / LOG, out / LOG)
    shutil.rmtree(run)
    return report


def finish_fit(
    name: str,
    features: FeatureSpec,
    tap: FittedTap,
    tail: nn.Module | None,
    maker: ExampleMaker,
    held_out: Sequence[PhotoFile],
    out: Path,
) -> FitReport:
    """Measure a trained tap, and its tail if that was tuned, on other photos; write its folder."""
    reader, network = maker.reader, maker.network
    for trained in (tap, tail):
        if trained is not None:
            # Measured as it will be stored: figures are of what a user loads.
            round_to_half(trained.eval())
    sums = measure_tap(tap, tail, reader, network, held_out)
    figures, record = sums.figures(), read_record(out / RUN)
    model = reader.package.card
    card = TapCard(
        name=name,
        model=model.name,
        fingerprint=model.fingerprint,
        features=features,
        network=network.facts,
        outputs=(),
        preprocessing={**asdict(network.pixels), "size": reader.size},
        training={**record, "tap": vars(tap.shape)},
        metrics={"photos": sums.photos, "qualities": [one.to_dict() for one in figures]},
    )
    with explained_full_disk(out):
        rest = network.tail if tail is None else tail
        problem = write_tap(out, model, card, reader.decoder, tap, rest)
        report = FitReport(
            name=name,
            folder=out,
            model=model.name,
            network=network.facts,
            pixels=str(network.pixels),
            features=(features.channels, features.stride),
            photos=record["photos"],
            held_out=sums.photos,
            steps=record["steps"],
            minutes=record["minutes"],
            parameters=sum(value.numel() for value in tap.parameters()),
            left_out=maker.left_out,
            qualities=figures,
            answers=problem,
        )
        report.write()
    return report


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
        # Either the features are finer and one cell becomes several, or they are coarser.
        up=source.stride // fine,
        down=features.stride // fine,
        width=options.width,
        depth=options.depth,
    )
