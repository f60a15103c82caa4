"""A service in a thread of this process, on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from cdvision.errors import EngineError
from cdvision.serving.app import create_app
from cdvision.serving.service import Service
from cdvision.serving.settings import ServiceSettings

POLL_SECONDS = 0.02


@dataclass(frozen=True)
class BackgroundService:
    """A running service.

    Attributes:
        service: what answers, with its metrics.
        port: where it listens on 127.0.0.1.
        server: uvicorn's own handle.
    """

    service: Service
    port: int
    server: uvicorn.Server

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Begin to shut down as on SIGTERM: requests at work are answered first."""
        self.server.should_exit = True


@contextmanager
def serve_in_background(
    settings: ServiceSettings, *, patience: float = 600.0
) -> Iterator[BackgroundService]:
    """Serve on loopback until the block ends; yields when the models are loaded.

    Args:
        settings: of the service.
        patience: seconds that loading may take.

    Raises:
        ModelError: a model is missing or damaged.
        EngineError: the models cannot be loaded, or not in time.
    """
    app = create_app(settings)
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=30)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="cdvision-server")
    thread.start()
    try:
        service: Service = app.state.service
        _wait_until_ready(server, service, time.monotonic() + patience)
        port: int = server.servers[0].sockets[0].getsockname()[1]
        yield BackgroundService(service, port, server)
    finally:
        server.should_exit = True
        thread.join()


def _wait_until_ready(server: uvicorn.Server, service: Service, end: float) -> None:
    while not (server.started and service.ready):
        if service.failed or time.monotonic() > end:
            raise EngineError("the service's models cannot be loaded: see its log")
        time.sleep(POLL_SECONDS)
