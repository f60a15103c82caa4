"""Cold starts of the command line: time and peak memory of whole processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdvision.bench.timing import Spread
from cdvision.errors import CdvisionError

MEBIBYTE = 2**20

# A small process in between, because Linux counts the memory of whoever started a process into
# that process's own peak.
_LAUNCH = """
import json, os, subprocess, sys, time
started = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
if hasattr(os, "wait4"):
    _, status, usage = os.wait4(child.pid, 0)
    peak = usage.ru_maxrss
else:
    status, peak = child.wait(), None
print(json.dumps({"seconds": time.perf_counter() - started, "status": status, "peak": peak}))
"""


@dataclass(frozen=True)
class ColdStart:
    """Seconds from the start of a process to its end, and the most memory that it held.

    Attributes:
        command: what was run.
        seconds: over all runs; the files were in the system's cache.
        peak_mib: peak resident memory (``ru_maxrss``), the largest of the runs; it includes the
            interpreter and the shared libraries. None where the system does not tell.
    """

    command: str
    seconds: Spread
    peak_mib: float | None


def cold_starts(stream: bytes, package: Path, runs: int) -> tuple[ColdStart, ...]:
    """Start the interpreter, ``cdvision inspect`` and ``cdvision detect``, in turn.

    Args:
        stream: what they are given.
        package: folder of the model that detects.
        runs: counted starts of each, after one that fills the caches.

    Raises:
        CdvisionError: a command fails; the message ends with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stream.cdv"
        file.write_bytes(stream)
        program = [sys.executable, "-m", "cdvision"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "cdvision inspect": [*program, "inspect", str(file)],
            "cdvision detect": [*program, "detect", str(file), "--model", str(package)],
        }
        outcomes = [[_launch(c) for c in commands.values()] for _ in range(runs + 1)][1:]
    columns = zip(*outcomes, strict=True)
    return tuple(_summary(name, column) for name, column in zip(commands, columns, strict=True))


def peak_memory() -> float | None:
    """Peak resident memory of this process in MiB so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return _mebibytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _launch(command: Sequence[str]) -> tuple[float, float | None]:
    """Return seconds and peak memory in MiB of one run."""
    launcher = [sys.executable, "-S", "-c", _LAUNCH]
    done = subprocess.run(  # noqa: S603 - this interpreter, on files of ours
        [*launcher, *command], capture_output=True, text=True, check=False
    )
    outcome = json.loads(done.stdout or '{"status": 1}')
    if outcome["status"] != 0:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise CdvisionError(f"`{' '.join(command)}` failed: {reason}")
    peak = outcome["peak"]
    return outcome["seconds"], None if peak is None else _mebibytes(peak)


def _summary(name: str, outcomes: Sequence[tuple[float, float | None]]) -> ColdStart:
    peaks = [peak for _, peak in outcomes if peak is not None]
    return ColdStart(name, Spread.of(s for s, _ in outcomes), max(peaks, default=None))


def _mebibytes(maxrss: int) -> float:
    """``ru_maxrss`` counts kibibytes, on macOS bytes."""
    return maxrss / (MEBIBYTE if sys.platform == "darwin" else MEBIBYTE / 1024)
