"""The command line, `cdvision`: the public functions over files, folders, globs and stdin."""

from cdvision.cli.command_line import command_line, main

__all__ = ["command_line", "main"]
