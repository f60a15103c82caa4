"""What Prometheus can ask: requests, their times, batches, bytes, and the process itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

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

    def __init__(self) -> None:
        # A registry of its own: two services in one process would clash in the global one.
        self.registry = own = CollectorRegistry()
        labels = ("path", "method", "status")
        self.requests = Counter("cdvision_requests", "Finished requests.", labels, registry=own)
        self.at_work = Gauge("cdvision_requests_at_work", "Requests at work.", registry=own)
        self.received = Counter("cdvision_received_bytes", "Bytes of bodies read.", registry=own)

        def histogram(name: str, told: str, label: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"cdvision_{name}", told, (label,), registry=own, buckets=buckets)

        self.seconds = histogram("request_seconds", "Time of a request.", "path", SECONDS)
        self.batch = histogram("batch_streams", "Streams that shared a run.", "task", STREAMS)
        self.batch_seconds = histogram("batch_seconds", "Time of a run.", "task", SECONDS)
        ProcessCollector(registry=own)
