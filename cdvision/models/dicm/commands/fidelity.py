"""`cdvision bench fidelity`: what is left of res2, res3 and res4 at how many bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.cli.evaluate import QualityList
from cdvision.cli.model_options import FOLDER, count_option

if TYPE_CHECKING:
    from PIL.Image import Image

    from cdvision.models.dicm.bench.fidelity import Point

RIVALS = ("jpeg", "hevc")


@click.command()
@click.argument("model", type=FOLDER)
@click.argument("photos", type=EXISTING)
@click.option(
    "--weights",
    type=EXISTING,
    required=True,
    help="resnet50_msra_stages123.safetensors, or its folder: the network on pixels.",
)
@count_option("--limit", None, "The first so many photos (default: all).")
@click.option(
    "--short",
    "shorts",
    type=click.IntRange(32),
    multiple=True,
    default=(512, 800),
    show_default=True,
    help="Short side at which networks see photos, pixels.",
)
@click.option(
    "--rival",
    "rivals",
    multiple=True,
    default=RIVALS,
    show_default=True,
    help="jpeg, webp, avif, jxl, hevc or vvc; may be repeated.",
)
@click.option(
    "-q", "--quality", "qualities", type=QualityList(), help="Such as 1-8 or 1,4,8 (default: all)."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="Also write the figures to a file.",
)
def fidelity(
    model: Path,
    photos: Path,
    weights: Path,
    limit: int | None,
    shorts: tuple[int, ...],
    rivals: tuple[str, ...],
    qualities: tuple[int, ...] | None,
    out: Path | None,
) -> None:
    """Measure the features of MODEL (folder of dicm-re or dicm-light) on PHOTOS (folder or tar).

    Errors of res2, res3 and res4 behind the frozen network, in units of each channel's variance,
    over every byte of a photo; and by how many bytes rivals' pixels differ at equal errors.
    """
    import cdvision
    from cdvision.bench.rate import chosen_rivals
    from cdvision.models.dicm.bench.fidelity import FidelityBenchmark
    from cdvision.models.dicm.bench.true_network import TrueNetwork
    from cdvision.networks.resnet50_msra import load_resnet50_msra

    true = TrueNetwork(*load_resnet50_msra(weights))
    loaded, working = cdvision.load(model), chosen_rivals(rivals)[0]
    benchmark = FidelityBenchmark(
        loaded,
        true,
        _read(photos, limit),
        shorts=shorts,
        rivals=working,
        qualities=qualities or range(1, loaded.card.qualities + 1),
    )
    points = benchmark.run()
    if out is not None:
        out.write_text(json.dumps([p.to_dict() for p in points], indent=1) + "\n", encoding="utf-8")
    click.echo(_table(points))
    click.echo(_comparison(points, loaded.name, [rival.name for rival in working], shorts))


def _read(source: Path, limit: int | None) -> list[Image]:
    from PIL import Image

    from cdvision.image_files import PHOTO_SUFFIXES
    from cdvision.training.photo_bank import photo_contents

    files = sorted(photo_contents(source, lambda name: name.lower().endswith(PHOTO_SUFFIXES)))
    return [Image.open(io.BytesIO(data)).convert("RGB") for _, data in files[:limit]]


def _table(points: list[Point]) -> str:
    lines = [
        f"{'codec':14}{'setting':>8}{'short':>7}{'bytes':>9}{'bpp':>8}{'res2':>8}{'res3':>8}{'res4':>8}"
    ]
    for point in sorted(points, key=lambda p: (p.short, p.codec, p.mean_bytes)):
        errors = "".join(f"{error:8.3f}" for error in point.errors)
        lines.append(
            f"{point.codec:14}{point.setting:8}{point.short:7}{point.mean_bytes:9.0f}"
            f"{point.bpp:8.3f}{errors}"
        )
    return "\n".join(lines)


def _comparison(points: list[Point], model: str, rivals: list[str], shorts: tuple[int, ...]) -> str:
    from cdvision.errors import CdvisionError
    from cdvision.models.dicm.bench.fidelity import STAGES, bytes_against

    lines = []
    for short in shorts:
        for rival in rivals:
            told = []
            for stage in STAGES:
                try:
                    difference = bytes_against(points, model, rival, short, stage)
                    told.append(f"{stage} {difference:+.1f} %")
                except CdvisionError as error:
                    told.append(f"{stage}: {error}")
            lines.append(
                f"bytes against {rival} at equal errors, short side {short}: " + ", ".join(told)
            )
    return "\n".join(lines)
