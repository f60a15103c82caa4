"""A short aligned table for terminals."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, limit: int = 20) -> str:
    """Align columns: the first to the left, all others to the right.

    >>> print(text_table(["class", "score"], [["cat", "0.91"], ["zebra", "0.07"]]))
    class  score
    cat     0.91
    zebra   0.07

    Args:
        header: one title per column.
        rows: the cells, as many per row as the header has.
        limit: rows shown; the rest is counted in one last line.
    """
    shown = [header, *rows[:limit]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(header))]
    lines = ["  ".join(_align(row, widths)).rstrip() for row in shown]
    if len(rows) > limit:
        lines.append(f"... and {len(rows) - limit} more")
    return "\n".join(lines)


def _align(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = row
    return [first.ljust(widths[0])] + [
        cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)
    ]
