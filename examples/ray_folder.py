"""A folder of photos on Ray: encoded, then analysed by two workers of which one is killed midway.

Every row comes out exactly once.

python examples/ray_folder.py [--photos FOLDER] [--rows 60]
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

import cdvision
from cdvision.pipelines.ray import CdvisionEncoder, CdvisionPredictor, actors

WORKERS = 2
PHOTOS = Path(__file__).parent / "photos"


class LoggedPredictor(CdvisionPredictor):
    """Writes down which process takes a batch, and when, so that the example knows whom to kill."""

    def __init__(self, log: str, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self._log = Path(log)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer, after a note of the process and the time."""
        with self._log.open("a") as log:
            log.write(f"{os.getpid()} {time.time()}\n")
        return super().__call__(batch)


def notes(log: Path) -> list[tuple[int, float]]:
    """Return process and time of each batch so far."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(process), float(when)) for process, when in map(str.split, lines)]


def kill_one(log: Path, after: int, done: threading.Event) -> None:
    """Kill the worker that took the last batch, when ``after`` batches were taken."""
    while not done.wait(0.02):
        if len(taken := notes(log)) >= after:
            process, _ = taken[-1]
            os.kill(process, signal.SIGKILL)
            print(f"killed worker {process} after {len(taken)} batches")
            return


def many_photos(folder: Path, rows: int, copies: Path) -> None:
    """Lay out ``rows`` photos, as links to those of a folder."""
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    for number, photo in enumerate(islice(cycle(photos), rows)):
        (copies / f"{number:06}{photo.suffix}").symlink_to(photo.resolve())


def encode(photos: Path, streams: Path, size: int | None) -> None:
    """Turn a folder of photos into Parquet files of streams."""
    data = ray.data.read_binary_files(str(photos), include_paths=True)
    data.map_batches(CdvisionEncoder, **actors(WORKERS, rows=8, size=size)).write_parquet(
        str(streams)
    )


def analyse(streams: Path, results: Path, log: Path, rows: int) -> None:
    """Turn streams into Parquet files of boxes; one worker dies on the way."""
    data = ray.data.read_parquet(str(streams)).repartition(max(4, rows // 8))
    settings = actors(WORKERS, rows=8, log=str(log))
    done = threading.Event()
    killer = threading.Thread(target=kill_one, args=(log, max(2, rows // 16), done))
    killer.start()
    try:
        data.map_batches(LoggedPredictor, **settings).write_parquet(str(results))
    finally:
        done.set()
        killer.join()


def plain_loop(streams: Path) -> Iterator[str]:
    """Ask one stream after the other in this process; yields their keys."""
    model = cdvision.load()
    for row in pq.read_table(streams, columns=["key", "stream"]).to_pylist():
        model.detect(row["stream"])
        yield row["key"]


def main() -> None:
    """Encode, analyse, and compare what came out with what went in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--rows", type=int, default=60, help="photos, repeated as needed")
    parser.add_argument("--size", type=int, help="long side of the network input")
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # an example calls nobody
    # One core is for reading and writing: with none left, the workers would wait for rows for ever.
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as name:
        photos, streams, results, log = (Path(name) / part for part in "psrl")
        photos.mkdir()
        many_photos(options.photos, options.rows, photos)
        encode(photos, streams, options.size)
        started = time.time()
        analyse(streams, results, log, options.rows)
        ended, batches = time.time(), notes(log)
        table = pq.read_table(results, columns=["key", "boxes", "error"])
        loop_started = time.time()
        expected = sorted(plain_loop(streams))
        looped = time.time() - loop_started
    ray.shutdown()
    found = sorted(table["key"].to_pylist())
    workers = len({process for process, _ in batches})
    boxes = sum(len(row or ()) for row in table["boxes"].to_pylist())
    print(f"{len(expected)} streams in, {len(found)} rows out, {boxes} boxes, {workers} workers")
    print(f"every row exactly once: {found == expected and len(found) == options.rows}")
    print(f"Ray, from the first batch on: {len(found) / (ended - batches[0][1]):.1f} rows/s")
    print(f"Ray, start of the workers included: {len(found) / (ended - started):.1f} rows/s")
    print(f"plain loop, model loading included: {len(expected) / looped:.1f} rows/s")
    if found != expected or len(found) != options.rows:
        raise SystemExit("rows are missing or came twice")


if __name__ == "__main__":
    main()
