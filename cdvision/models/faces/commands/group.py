"""`cdvision train faces`: all stages of the face models, and their packages."""

from __future__ import annotations

import click

from cdvision.models.faces.commands.codecs import hsc, style_layers
from cdvision.models.faces.commands.package import package
from cdvision.models.faces.commands.stages import generator, inversion, rows, score, trunk


@click.group()
def faces() -> None:
    """Train the face models, stage by stage; a command started again resumes.

    generator (adversarial, wants a GPU) → trunk (attributes) → inversion → score. Without a GPU,
    leave `generator` out and give `inversion` --tune-generator.
    """


for command in (generator, trunk, inversion, rows, score, hsc, style_layers, package):
    faces.add_command(command)
