"""What Prometheus can ask: requests, their times, batches, bytes, and the process itself."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STREAMS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one service, in a registry of their own.

    Attributes:
        requests: finished requests by path, method and status.
        seconds: time from the first byte of a request to the last of its answer, by path.
        at_work: requests at work now.
        received: bytes of request bodies that were read.
        batch: streams that shared one run of the networks, by task.
        batch_seconds: time of such a run, entropy decoding and post-processing included.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "cdvision_requests",
            "Finished requests.",
            ("path", "method", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "cdvision_request_seconds",
            "Time of a request.",
            ("path",),
            registry=registry,
            buckets=SECONDS,
        )
        self.at_work = Gauge("cdvision_requests_at_work", "Requests at work.", registry=registry)
        self.received = Counter(
            "cdvision_received_bytes", "Bytes of bodies read.", registry=registry
        )
        self.batch = Histogram(
            "cdvision_batch_streams",
            "Streams that shared a run.",
            ("task",),
            registry=registry,
            buckets=STREAMS,
        )
        self.batch_seconds = Histogram(
            "cdvision_batch_seconds", "Time of a run.", ("task",), registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        ProcessCollector(registry=registry)

    def exposition(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self.registry)
