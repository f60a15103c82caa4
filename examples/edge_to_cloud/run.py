"""Edge to cloud on one machine: broker, sender and receiver; ends by itself, with a summary.

python examples/edge_to_cloud/run.py [--count 10]
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

HERE = Path(__file__).parent
PHOTOS = HERE.parent / "photos"
MODULES = {"paho": "paho-mqtt", "duckdb": "duckdb", "pyarrow": "pyarrow"}
PATIENCE = 60.0  # seconds that something may take to start

OBJECTS = """
    SELECT box.class_name AS class, count(*) AS objects, count(DISTINCT key) AS photos,
           round(avg(box.confidence), 2) AS confidence
    FROM (SELECT key, unnest(boxes) AS box FROM read_parquet(?))
    GROUP BY class ORDER BY objects DESC, class
"""
TOTALS = "SELECT count(*), count(DISTINCT key), sum(bytes), count(error) FROM read_parquet(?)"


def missing() -> str | None:
    """Say what has to be installed, in one line; None where all is there."""
    absent = [name for module, name in MODULES.items() if importlib.util.find_spec(module) is None]
    if absent:
        return f"needs {', '.join(absent)}: pip install 'cdvision[edge]'"
    if broker_program() is None:
        return "needs the MQTT broker mosquitto: apt-get install mosquitto"
    return None


def broker_program() -> str | None:
    """Return where mosquitto is; Debian has it where only root looks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@contextmanager
def broker(folder: Path) -> Iterator[int]:
    """Run a broker for this machine alone; gives its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    settings = folder / "mosquitto.conf"
    lines = ("listener {} 127.0.0.1", "allow_anonymous true", "persistence false", "log_type none")
    settings.write_text("\n".join(lines).format(port))
    with running([str(broker_program()), "-c", settings]) as mosquitto:
        wait_for_port(port, mosquitto)
        yield port


@contextmanager
def running(command: list[str | Path]) -> Iterator[subprocess.Popen[str]]:
    """Start a program whose lines can be read; it does not outlive the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield process
        finally:
            process.terminate()


def script(name: str, *arguments: object) -> list[str | Path]:
    """Return the command that starts one of the two programs."""
    return [sys.executable, HERE / name, *map(str, arguments)]


def wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"run.py: mosquitto does not listen on port {port}")


def take_photos(folder: Path, count: int) -> int:
    """Put photos into the camera's folder one by one; returns their bytes."""
    total = 0
    for number, photo in enumerate(islice(cycle(sorted(PHOTOS.glob("*.jpg"))), count)):
        copy = Path(shutil.copy(photo, folder / f"{number:04}-{photo.name}"))
        total += copy.stat().st_size
    return total


def ended(process: subprocess.Popen[str], name: str) -> str:
    """Wait for a program, and return its lines; a failure ends this one too."""
    lines, _ = process.communicate()
    if process.returncode:
        sys.exit(f"run.py: {name} failed with status {process.returncode}:\n{lines}")
    return lines


def exchange(count: int, folder: Path, table: Path) -> int:
    """Send ``count`` photos from a folder to a table; returns the bytes of their files."""
    camera = folder / "camera"
    camera.mkdir()
    with broker(folder) as port:
        common = ("--port", port, "--count", count)
        with running(script("receiver.py", *common, "--to", table)) as receiver:
            if receiver.stdout is None or receiver.stdout.readline() != "listening\n":
                ended(receiver, "receiver.py")
                sys.exit("run.py: receiver.py ended before it listened")
            with running(script("sender.py", camera, *common)) as sender:
                photo_bytes = take_photos(camera, count)
                print(ended(sender, "sender.py"), end="")
            print(ended(receiver, "receiver.py"), end="")
    return photo_bytes


def summary(table: Path, photo_bytes: int) -> str:
    """Ask DuckDB what came."""
    import duckdb

    rows, distinct, sent, errors = duckdb.execute(TOTALS, [str(table)]).fetchall()[0]
    lines = [f"{'class':16}{'objects':>8}{'photos':>8}{'confidence':>12}"]
    for name, objects, photos, confidence in duckdb.execute(OBJECTS, [str(table)]).fetchall():
        lines.append(f"{name:16}{objects:>8}{photos:>8}{confidence:>12.2f}")
    lines.append(
        f"{rows} photos ({distinct} different, {errors} errors): {sent:,} bytes sent, "
        f"{photo_bytes:,} as JPEG: {photo_bytes / sent:.1f} times as many"
    )
    return "\n".join(lines)


def main() -> None:
    """Run everything once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10, help="photos to send (default: 10)")
    parser.add_argument("--to", type=Path, default=Path("out") / "detections.parquet")
    options = parser.parse_args()
    if (problem := missing()) is not None:
        sys.exit(f"run.py: {problem}")
    with tempfile.TemporaryDirectory() as folder:
        photo_bytes = exchange(options.count, Path(folder), options.to)
    print(summary(options.to, photo_bytes))


if __name__ == "__main__":
    main()
