"""Loads a running service over HTTP: how many streams a second, how long each, what it refuses.

::

    load       clients send the next stream as soon as they have an answer: the highest rate
    malformed  mutated streams: each must be refused with 4xx, and the memory must not grow
    too large  a body over the limit: refused before it is sent
"""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import numpy as np

import cdvision
from cdvision.bench.mutations import mutate
from cdvision.errors import CdvisionError
from cdvision.machine import machine

MILLISECONDS = 1000.0
OK, SERVER_ERRORS = 200, range(500, 600)
TOO_LARGE = 2**40
CHUNK = bytes(2**16)
RESIDENT = "process_resident_memory_bytes"


@dataclass(frozen=True)
class LoadReport:
    """What a service sustained: every figure beside the load that the machine had."""

    machine: str
    load_average: float  # of the last minute, at the end of the load
    seconds: float
    clients: int  # connections, each with one request at a time
    requests: int
    errors: int  # requests that failed or were not answered with 200
    streams_per_second: float  # answered requests over time
    p50: float  # median time of a request, milliseconds
    p99: float  # 99th percentile of the same
    malformed: dict[int, int] = field(default_factory=dict)  # bodies by status
    wrongly_answered: int = 0  # malformed bodies answered with 200 that the library refuses
    resident_mib: tuple[float, float] = (0.0, 0.0)  # before and after the malformed bodies
    too_large_status: int = 0  # answer to a body announced as 1 TiB, of which no byte was sent
    too_large_sent: int = 0  # bytes of an endless chunked body, sent before the refusal

    @property
    def ok(self) -> bool:
        """Whether nothing failed that should not have."""
        server_errors = sum(self.malformed.get(status, 0) for status in SERVER_ERRORS)
        return not (self.errors or server_errors or self.wrongly_answered)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the figures for people."""
        before, after = self.resident_mib
        counted = ", ".join(f"{status}: {n:,}" for status, n in sorted(self.malformed.items()))
        return (
            f"{self.machine}; load average {self.load_average:.1f}\n"
            f"{self.requests:,} streams in {self.seconds:.1f} s over {self.clients} connections: "
            f"{self.streams_per_second:.1f} a second, {self.errors} errors\n"
            f"  p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms\n"
            f"malformed bodies by status: {counted}; wrongly answered: {self.wrongly_answered}\n"
            f"  resident memory {before:.0f} MiB before, {after:.0f} MiB after\n"
            f"body over the limit: {self.too_large_status} before a byte of it was sent; chunked: "
            f"refused after {self.too_large_sent:,} bytes"
        )


class Client:
    """One connection to the service, kept open between requests; ``url`` is such as ``http://127.0.0.1:8000``."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise CdvisionError(f"url: expected http://HOST:PORT, found {url!r}")
        self.address = (parts.hostname, parts.port or 80)
        self._headers = {"Content-Type": "application/octet-stream"}
        if api_key is not None:
            self._headers["X-API-Key"] = api_key
        self._connection = http.client.HTTPConnection(*self.address, timeout=60)

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return status and body of an answer; raises CdvisionError where there is none."""
        method = "GET" if body is None else "POST"
        try:
            self._connection.request(method, path, body, self._headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # opens again with the next request
            raise CdvisionError(f"no answer from {self.address}: {error!r}") from error

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def resident_mib(self) -> float:
        """Return the service's resident memory, from its metrics."""
        _, text = self.ask("/metrics")
        lines = text.decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(RESIDENT)) / 2**20


def bench_service(
    url: str,
    streams: Sequence[bytes],
    *,
    seconds: float = 60.0,
    clients: int = 16,
    malformed: int = 10_000,
    task: str = "detect",
    api_key: str | None = None,
) -> LoadReport:
    """Load a service for ``seconds``, then send it what it must refuse.

    ``streams`` are sent in turn by ``clients`` connections at once, which must stay below the
    service's limit of requests; ``malformed`` bodies are made of them afterwards.
    """
    path = f"/v1/{task}"
    connected = [Client(url, api_key) for _ in range(clients)]
    begin = perf_counter()
    times, errors = _load(connected, path, streams, begin + seconds)
    lasted, average = perf_counter() - begin, os.getloadavg()[0]
    before = connected[0].resident_mib()
    statuses, wrong = _send_malformed(connected, path, streams, malformed)
    after = connected[0].resident_mib()
    for client in connected:
        client.close()
    return LoadReport(
        machine=machine(),
        load_average=round(average, 2),
        seconds=round(lasted, 2),
        clients=clients,
        requests=len(times),
        errors=errors,
        streams_per_second=round(len(times) / lasted, 2),
        **_percentiles(times),
        malformed=dict(statuses),
        wrongly_answered=wrong,
        resident_mib=(round(before, 1), round(after, 1)),
        too_large_status=announce_too_large(connected[0].address, path, api_key),
        too_large_sent=send_endless(connected[0].address, path, api_key),
    )


def announce_too_large(address: tuple[str, int], path: str, api_key: str | None = None) -> int:
    """Announce a body of 1 TiB, send none of it, and return the status of the answer."""
    with socket.create_connection(address, timeout=30) as link:
        link.sendall(_head(path, f"Content-Length: {TOO_LARGE}", api_key))
        return _status(link.recv(4096))


def send_endless(address: tuple[str, int], path: str, api_key: str | None = None) -> int:
    """Send a chunked body until the service ends the connection; return the bytes it took."""
    # A chunk is its length in hex, then its bytes; no chunk of length 0 ever ends the body.
    sent, piece = 0, b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK)
    with socket.create_connection(address, timeout=30) as link:
        link.sendall(_head(path, "Transfer-Encoding: chunked", api_key))
        try:
            while sent < TOO_LARGE:
                link.sendall(piece)
                sent += len(CHUNK)
        except (BrokenPipeError, ConnectionResetError):
            pass
    return sent


def _load(
    clients: Sequence[Client], path: str, streams: Sequence[bytes], end: float
) -> tuple[list[float], int]:
    """Keep every client busy until ``end``; return the times of good answers and the errors."""
    turn, lock = itertools.cycle(streams), threading.Lock()

    def keep_asking(client: Client) -> tuple[list[float], int]:
        times, errors = [], 0
        while (begin := perf_counter()) < end:
            with lock:
                stream = next(turn)
            try:
                status, _ = client.ask(path, stream)
            except CdvisionError:
                status = 0
            if status == OK:
                times.append(perf_counter() - begin)
            else:
                errors += 1
        return times, errors

    with ThreadPoolExecutor(len(clients)) as pool:
        parts = list(pool.map(keep_asking, clients))
    return [t for times, _ in parts for t in times], sum(errors for _, errors in parts)


def _send_malformed(
    clients: Sequence[Client], path: str, streams: Sequence[bytes], count: int
) -> tuple[Counter[int], int]:
    """Send mutated streams; return their statuses, and how many 200s the library disagrees with.

    Some mutations leave a valid stream: for these, 200 is the right answer.
    """

    def send(client: Client, indices: range) -> Iterator[tuple[int, bytes]]:
        for index in indices:
            _, body = mutate(streams, 0, index)
            yield client.ask(path, body)[0], body

    def send_share(number: int) -> tuple[Counter[int], int]:
        statuses: Counter[int] = Counter()
        wrong = 0
        for status, body in send(clients[number], range(number, count, len(clients))):
            statuses[status] += 1
            wrong += status == OK and not _accepted(body, path.rpartition("/")[2])
        return statuses, wrong

    with ThreadPoolExecutor(len(clients)) as pool:
        parts = list(pool.map(send_share, range(len(clients))))
    return sum((part for part, _ in parts), Counter()), sum(wrong for _, wrong in parts)


def _accepted(body: bytes, task: str) -> bool:
    try:
        stream = cdvision.open(body)
        stream.latents_for(stream.tail_for(task))  # a task may read one layer of several
    except CdvisionError:
        return False
    return True


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    if not times:
        return {"p50": float("nan"), "p99": float("nan")}
    p50, p99 = np.percentile(times, (50, 99)) * MILLISECONDS
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def _head(path: str, length: str, api_key: str | None) -> bytes:
    key = f"X-API-Key: {api_key}\r\n" if api_key is not None else ""
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{key}{length}\r\n\r\n".encode()


def _status(answer: bytes) -> int:
    if not answer.startswith(b"HTTP/1.1 "):
        raise CdvisionError(f"expected an HTTP answer, found {answer[:20]!r}")
    return int(answer.split()[1])
