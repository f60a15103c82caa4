"""Members of tars, links to other members among them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from cdvision.errors import CdvisionError


def tar_members(path: Path) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    """Yield (name, open tar, member) of all files in a tar, and of links to them, in their order.

    Raises:
        CdvisionError: it is no tar, or ends too early.
    """
    # A file is read with seeking, so that links find their targets; a pipe front to back.
    mode = "r:*" if path.is_file() else "r|*"
    try:
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for member in tar:
                if member.isfile() or member.islnk() or member.issym():
                    yield member.name, tar, member
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CdvisionError(f"{path}: expected a tar file, found: {error}") from error


def member_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | CdvisionError:
    """Return what a member or the target of a link holds, or what is wrong with the link."""
    try:
        file = tar.extractfile(member)
        return b"" if file is None else file.read()
    except (KeyError, RecursionError, tarfile.StreamError):
        told = f"{member.name}: a link to {member.linkname}, which cannot be read from this tar"
        return CdvisionError(told)
