"""`cdvision serve`: the HTTP service and its page."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import click

from cdvision.cli.command_line import needs_extra
from cdvision.cli.model_options import ENGINES, count_option
from cdvision.cli.task_options import FiniteRange
from cdvision.errors import CdvisionError

SHUTDOWN_SECONDS = 30
LOOPBACK = "127.0.0.1"
BACKLOG = 2048
KEY_VARIABLE = "CDVISION_API_KEY"


@click.command()
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--model",
    "models",
    metavar="NAME|FOLDER",
    multiple=True,
    help="Model to serve; may be repeated, the first one encodes (default: small).",
)
@click.option("--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Where the engine runs.")
@count_option("--threads", None, "Threads of the engine.")
@click.option("--max-body-mib", type=FiniteRange(0, min_open=True), default=16.0, show_default=True)
@count_option("--max-requests", 64, "At work at once; one more is told to come back (503).")
@count_option("--max-batch", 16)
@click.option(
    "--batch-window-ms",
    type=FiniteRange(0),
    default=4.0,
    show_default=True,
    help="How long a stream waits for others to share its run.",
)
@click.option(
    "--api-key",
    envvar=KEY_VARIABLE,
    help="Ask for this key (better in the variable CDVISION_API_KEY: others see options).",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    metavar="ORIGIN",
    multiple=True,
    help="Let pages of this origin call the service (default: none).",
)
def serve(host: str, port: int, **how: Any) -> None:
    """Answer streams over HTTP, with a page at / to see it; listens on this machine only.

    Logs are JSON lines on stderr, without payloads. SIGTERM and Ctrl-C let requests at work end.
    """
    if os.environ.get(KEY_VARIABLE) == "":
        # An empty secret would open the service to everybody without a word.
        raise CdvisionError(f"{KEY_VARIABLE} is set and empty: unset it for a service without key")
    with needs_extra("serve", "serve"):
        import uvicorn

        from cdvision.serving.app import create_app
        from cdvision.serving.request_log import log_config

    app = create_app(_settings(**how))
    with _bound(host, port) as listening:
        address = listening.getsockname()
        # An address of version 6 has colons of its own: brackets part it from the port.
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        click.echo(f"cdvision: serving on http://{shown}:{address[1]}", err=True)
        config = uvicorn.Config(
            app,
            log_config=log_config(),
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        # Ctrl-C is how one ends a server: no error, and nothing to say.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _settings(
    *, models: tuple[str, ...], max_body_mib: float, batch_window_ms: float, **others: Any
) -> Any:
    from cdvision.serving.settings import MEBIBYTE, ServiceSettings

    if models:
        others["models"] = models
    # People think in mebibytes and milliseconds, the service in bytes and seconds.
    return ServiceSettings(
        max_body_bytes=max(1, round(max_body_mib * MEBIBYTE)),
        batch_window=batch_window_ms / 1000,
        **others,
    )


def _bound(host: str, port: int) -> socket.socket:
    # Bound before the models load, so that a port in use is told at once.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None else str(error)
        raise CdvisionError(f"cannot listen on {host}:{port}: {reason}") from error
