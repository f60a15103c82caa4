"""What a run of ``cdvision bench faces`` found, and the parts of it that a report shows.

``Facts`` hold ``ours`` (start of our codecs' names), ``fingerprint``, ``data``, ``refused``
(pictures that the model takes for no faces, which are left out everywhere), ``side``, ``machine``,
``versions``, ``codecs``, ``left_out``, ``classifier``, ``metrics`` (SHA-256 of the weights of LPIPS
and DISTS, None where they were left out), ``records``, and maybe ``speed`` (see ``speed.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdvision.evaluation.picture_distance.structural_similarity import scales
from cdvision.evaluation.rivals import RIVALS
from cdvision.models.faces.bench.figures import (
    ATTRIBUTES,
    RECONSTRUCTIONS,
    Envelope,
    Figure,
    Record,
    distances,
    envelope,
)
from cdvision.models.faces.bench.paths import UNCOMPRESSED

Facts = Mapping[str, Any]


def figures_of(facts: Facts) -> tuple[Figure, ...]:
    """Return the figures that a report shows."""
    features = facts["metrics"] is not None
    found = distances(features=features, scales=scales(facts["side"]))
    return (*ATTRIBUTES, *RECONSTRUCTIONS, *found)


def our_records(facts: Facts) -> list[Record]:
    """Return the records of our streams, by quality and layers."""
    own = [r for r in facts["records"] if str(r["codec"]).startswith(facts["ours"])]
    return sorted(own, key=lambda r: (r["quality"], r["layers"]))


def rival_records(facts: Facts) -> dict[str, list[Record]]:
    """Return the rivals' records by codec."""
    found: dict[str, list[Record]] = {}
    for record in facts["records"]:
        codec = str(record["codec"])
        if codec != UNCOMPRESSED and not codec.startswith(facts["ours"]):
            found.setdefault(codec, []).append(record)
    return found


def pixel_record(facts: Facts) -> Record | None:
    """Return what the classifier makes of the original pixels, where it was measured."""
    return next((r for r in facts["records"] if r["codec"] == UNCOMPRESSED), None)


def best_of(records: Sequence[Record], figure: Figure) -> Envelope:
    """Return the best of a rival's settings in what one of our figures is held against."""
    return envelope(records, figure.rival, higher=figure.higher)


def title_of(codec: str) -> str:
    """Return a codec's name for people."""
    return RIVALS[codec].title if codec in RIVALS else codec
