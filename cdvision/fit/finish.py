"""The end of a fit: figures on held-out photos, the tap's folder, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cdvision.errors import CdvisionError
from cdvision.fit.measure import Measurement, measure_tap
from cdvision.fit.network import SplitNetwork, TorchNetwork
from cdvision.fit.onnx_network import OnnxNetwork
from cdvision.fit.photos import PhotoFile
from cdvision.fit.report import FitReport, write_report
from cdvision.fit.streams import StreamReader
from cdvision.fit.tap_builder import round_to_half, write_tap
from cdvision.networks.fitted_tap import FittedTap
from cdvision.package.card import FeatureSpec
from cdvision.package.tap import TapCard


@dataclass(frozen=True)
class FittedParts:
    """What training leaves.

    Attributes:
        name: of the tap.
        reader: of the model's streams.
        network: whose features the tap gives.
        features: at its split point.
        tap: trained.
        tail: trained too, or None where the network's own stays.
        record: facts of the training, for the card.
        left_out: reason for each photo that could not be used.
    """

    name: str
    reader: StreamReader
    network: SplitNetwork
    features: FeatureSpec
    tap: FittedTap
    tail: nn.Module | None
    record: Mapping[str, Any]
    left_out: Mapping[str, str]


def finish_fit(parts: FittedParts, held_out: Sequence[PhotoFile], out: Path) -> FitReport:
    """Measure a trained tap and write its folder; the run's own folder is then removed.

    Args:
        parts: of the tap.
        held_out: photos that it was not fitted on.
        out: folder of the tap.
    """
    for trained in (parts.tap, parts.tail):
        if trained is not None:
            round_to_half(trained.eval())
    found = measure_tap(parts.tap, parts.tail, parts.reader, parts.network, held_out)
    figures = found.figures()
    metrics = {"photos": found.photos, "qualities": [one.to_dict() for one in figures]}
    card = _card(parts, metrics)
    model = parts.reader.package.card
    try:
        _, problem = write_tap(out, model, card, parts.reader.decoder, parts.tap, _tail(parts))
        report = _report(parts, found, out, problem)
        write_report(report)
    except OSError as error:
        raise CdvisionError(
            f"{out} cannot be written ({error.strerror}): make room and start the same command "
            "again, nothing of the training is lost"
        ) from error
    return report


def _card(parts: FittedParts, metrics: Mapping[str, Any]) -> TapCard:
    model = parts.reader.package.card
    return TapCard(
        name=parts.name,
        model=model.name,
        fingerprint=model.fingerprint,
        features=parts.features,
        network=parts.network.facts,
        outputs=(),
        preprocessing={**parts.network.pixels.to_dict(), "size": parts.reader.size},
        training={**parts.record, "tap": vars(parts.tap.shape)},
        metrics=metrics,
    )


def _tail(parts: FittedParts) -> Any:
    """Return the rest of the network in the form in which it is exported."""
    if parts.tail is not None:
        return parts.tail
    if isinstance(parts.network, TorchNetwork):
        return parts.network.named_tail
    return parts.network.tail if isinstance(parts.network, OnnxNetwork) else None


def _report(parts: FittedParts, found: Measurement, out: Path, problem: str | None) -> FitReport:
    record = parts.record
    return FitReport(
        name=parts.name,
        folder=out,
        model=parts.reader.package.card.name,
        network=parts.network.facts,
        pixels=str(parts.network.pixels),
        features=(parts.features.channels, parts.features.stride),
        photos=record["photos"],
        held_out=found.photos,
        steps=record["steps"],
        minutes=record["minutes"],
        parameters=sum(value.numel() for value in parts.tap.parameters()),
        left_out=parts.left_out,
        qualities=found.figures(),
        answers=problem or "",
    )
