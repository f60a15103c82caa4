"""`cdvision train faces`: all stages of the face models, and their packages."""

from __future__ import annotations

from cdvision.models.faces.commands.hsc import hsc
from cdvision.models.faces.commands.package import package
from cdvision.models.faces.commands.stages import faces
from cdvision.models.faces.commands.style_layers import style_layers

__all__ = ["faces"]

for command in (hsc, style_layers, package):
    faces.add_command(command)
