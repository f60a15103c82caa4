"""A service that listens on a free port of this machine, for the tests of two files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from cdvision.serving.app import create_app
from cdvision.serving.service import Service
from cdvision.serving.settings import ServiceSettings

START_SECONDS = 300.0  # graphs are opened; a busy machine takes its time


@dataclass
class Server:
    """A running service and a client of it."""

    service: Service
    uvicorn: uvicorn.Server
    client: httpx.Client
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, content: bytes = b"", **options: Any) -> httpx.Response:
        return self.client.post(path, content=content, **options)


@contextmanager
def serving(*, wait: bool = True, **settings: Any) -> Iterator[Server]:
    """Serve in a thread; shuts down as on SIGTERM at the end."""
    # Two threads that wait for each other are slow where something else runs on the machine.
    app = create_app(ServiceSettings(threads=1, **settings))
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=30)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started and bool(server.servers))
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False
        ) as client:
            running = Server(app.state.service, server, client, port)
            if wait:
                wait_until(lambda: client.get("/health/ready").status_code == 200)
            yield running
    finally:
        server.should_exit = True
        thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds; fail where it does not become true."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
