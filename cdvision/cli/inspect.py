"""`cdvision inspect`: what the header of a stream says."""

from __future__ import annotations

import click

import cdvision
from cdvision.cli.input_files import STREAM_SUFFIXES, InputFile, expand_inputs, inputs_argument
from cdvision.cli.printer import Printer, indented, json_option


@click.command()
@inputs_argument
@json_option
def inspect(inputs: tuple[str, ...], as_json: bool) -> None:
    """Show the header of streams; needs no model.

    A cut or damaged layer is shown, not refused: it is what one inspects a stream for.
    """
    printer = Printer(as_json=as_json)

    def inspect_one(item: InputFile) -> None:
        info = cdvision.inspect(item.read())
        printer.answer(item.name, info.to_dict(), f"{item.name}\n{indented(str(info))}")

    printer.each(expand_inputs(inputs, STREAM_SUFFIXES), inspect_one)
