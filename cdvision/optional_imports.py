"""Libraries of the extras: imported when used, with a clear line where one is missing."""

from __future__ import annotations

import importlib
from typing import Any

from cdvision.errors import CdvisionError

EXTRAS = {
    "av": "video",
    "pandas": "results",
    "pyarrow": "pipelines",
    "pyspark": "spark",
    "ray": "ray",
    "supervision": "results",
}
"""Package -> the extra of ``cdvision`` that installs it."""


def import_optional(module: str, purpose: str) -> Any:
    """Import a module of an extra, such as ``"pyarrow.parquet"``, for a purpose that messages name.

    Raises:
        CdvisionError: it cannot be imported; the message says what to install.
    """
    package = module.split(".", 1)[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CdvisionError(
            f"{purpose} needs {package}, which could not be imported ({error}): "
            f"install it with `pip install 'cdvision[{EXTRAS[package]}]'`"
        ) from error
