"""Lines for the person who waits: on stderr, above the progress bar where there is one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tqdm import tqdm

_SHOWN = 8


def notice(message: str) -> None:
    """Write one line to stderr."""
    tqdm.write(f"cdvision: {' '.join(message.split())}", file=sys.stderr)


def listed(names: Sequence[str]) -> str:
    """Join names, the first few of many.

    >>> listed(["a", "b"]), listed([str(number) for number in range(20)])
    ('a, b', '0, 1, 2, 3, 4, 5, 6, 7 and 12 more')
    """
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
