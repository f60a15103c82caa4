"""`cdvision train dicm`: all stages of DICM, and its packages."""

from __future__ import annotations

import click

from cdvision.models.dicm.commands.package import package
from cdvision.models.dicm.commands.stages import codec, contrastive, heads, joint, redundancy


@click.group()
def dicm() -> None:
    """Train `dicm-re` and `dicm`, stage by stage; a command started again resumes.

    contrastive (0) → redundancy (1) → joint (2) → codec (3) → heads (4). From pretrained weights,
    stage 0 may be left out and stage 2 be replaced by distillation.
    """


for command in (contrastive, redundancy, joint, codec, heads, package):
    dicm.add_command(command)
