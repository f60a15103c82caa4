"""`cdvision inspect`: what the header of a stream says."""

from __future__ import annotations

import click

import cdvision
from cdvision.cli.inputs import STREAM_SUFFIXES, Input, expand_inputs, inputs_argument
from cdvision.cli.report import Report, indented, json_option


@click.command()
@inputs_argument
@json_option
def inspect(inputs: tuple[str, ...], as_json: bool) -> None:
    """Show the header of streams; needs no model.

    A cut or damaged layer is shown, not refused: it is what one inspects a stream for.
    """
    report = Report(as_json=as_json)

    def inspect_one(item: Input) -> None:
        info = cdvision.inspect(item.read())
        report.answer(item.name, info.to_dict(), f"{item.name}\n{indented(str(info))}")

    report.each(expand_inputs(inputs, STREAM_SUFFIXES), inspect_one)
