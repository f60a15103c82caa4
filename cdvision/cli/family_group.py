"""A group of commands to which every family adds its own; they are imported when they are asked."""

from __future__ import annotations

from typing import Any

import click

from cdvision.package.families import commands, imported


class FamilyGroup(click.Group):
    """A group with commands of its own, and with those of the families.

    Args:
        group: key of the families' ``commands``.
        options: of ``click.Group``.
    """

    def __init__(self, *args: Any, group: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._group = group

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the families' commands, then the group's own."""
        return [*commands(self._group), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, and import it where it is a family's."""
        target = commands(self._group).get(cmd_name)
        if target is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = imported(target)
        return command
