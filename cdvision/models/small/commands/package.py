"""What `cdvision train package` does with a run of `small`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


def build_package(
    run: Path,
    out: Path,
    *,
    record: dict[str, Any],
    classes: Path | None = None,
    metrics: Path | None = None,
) -> None:
    """Build a package from a finished run of `small`, and say what it is.

    Args:
        run: folder of the run.
        out: folder of the package.
        record: ``training.json`` of the run.
        classes: classes.json with the lists coco and imagenet; those of the installed `small`
            where None.
        metrics: json of `cdvision eval`, for the card.
    """
    from cdvision.building.package_builder import PackageFacts
    from cdvision.models.small.package_builder import build_small
    from cdvision.package.loader import CLASSES_FILE
    from cdvision.package.registry import DEFAULT_MODEL, model_folder

    names = classes or model_folder(DEFAULT_MODEL) / CLASSES_FILE
    facts = PackageFacts(
        classes=json.loads(names.read_text(encoding="utf-8")),
        training=record,
        metrics=tuple(json.loads(metrics.read_text(encoding="utf-8")) if metrics else ()),
    )
    card = build_small(run / "weights.safetensors", out, facts)
    click.echo(f"{out}: {card.name} {card.fingerprint[:8]}")
