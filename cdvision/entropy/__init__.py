"""Entropy coding with integers only: the same bytes and the same latents on every machine.

``tables`` holds the integer probabilities of a model package, ``rans`` the coder. The coder is
compiled by numba, so it is imported where it is needed and not here.
"""

from cdvision.entropy.tables import (
    CodingError,
    SymbolTables,
    gaussian_tables,
    log_scale_table,
    nearest_scale,
    tables_from_probabilities,
)

__all__ = [
    "CodingError",
    "SymbolTables",
    "gaussian_tables",
    "log_scale_table",
    "nearest_scale",
    "tables_from_probabilities",
]
