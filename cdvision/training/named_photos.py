"""Photos that a table or json names, decoded from folders or tars."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cdvision.errors import CdvisionError


def read_named_photos(
    sources: Sequence[Path], names: Collection[str], *, of: Path
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and uint8 (3, H, W) of every photo that is named, in the sources' order.

    Args:
        sources: folders (searched recursively) or tars.
        names: file names without folders.
        of: the file that names them, for messages.

    Raises:
        CdvisionError: a source is neither a folder nor a tar, or none of the photos is there.
    """
    wanted = set(names)
    files = [file for source in sources for file in _files(source, wanted)]
    if not files:
        places = ", ".join(map(str, sources))
        raise CdvisionError(f"none of the {len(wanted)} photos that {of} names is in {places}")
    with ThreadPoolExecutor(4) as pool:
        decoded = pool.map(_decode, (data for _, data in files))
        bar = tqdm(decoded, total=len(files), desc=of.stem, unit="photo", disable=None)
        for (name, _), pixels in zip(files, bar, strict=True):
            yield name, pixels


def _files(source: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.name in wanted:
                yield path.name, path.read_bytes()
        return
    try:
        with tarfile.open(source) as tar:
            for member in tar:
                name = Path(member.name).name
                content = tar.extractfile(member) if name in wanted else None
                if content is not None:
                    yield name, content.read()
    except (OSError, tarfile.TarError) as error:
        raise CdvisionError(f"{source}: expected a folder or a tar of photos ({error})") from error


def _decode(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
