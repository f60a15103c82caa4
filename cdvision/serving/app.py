"""The web application: routes, health, metrics and the page, behind gate and request log."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cdvision.serving.errors import add_error_handlers
from cdvision.serving.gate import RETRY, Gate
from cdvision.serving.request_log import RequestLog
from cdvision.serving.routes import router, task_router
from cdvision.serving.service import Service
from cdvision.serving.settings import ServiceSettings
from cdvision.version import __version__

Endpoint: TypeAlias = Callable[[], Awaitable[Response]]
PAGE_FOLDER = Path(__file__).parent / "page"
PAGES = {"/": "index.html", "/docs": "docs.html"}
DESCRIPTION = "Answers from compressed streams of learned features, without rebuilding pixels."
ALLOWED_HEADERS = ("Authorization", "Content-Type", "X-API-Key")


def create_app(settings: ServiceSettings) -> FastAPI:
    """Return the ASGI application; raises ModelError or EngineError where a model cannot load."""
    service = Service(settings)
    app = FastAPI(
        title="cdvision",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        # FastAPI's own pages load scripts from elsewhere
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(task_router())
    _add_operations(app, service)
    _add_pages(app)
    add_error_handlers(app)
    _add_middleware(app, service)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    # In the background: the health paths answer while the models load.
    starting = asyncio.create_task(service.start())
    yield
    await starting
    await service.close()


def _add_operations(app: FastAPI, service: Service) -> None:
    def watched(path: str, **how: Any) -> Callable[[Endpoint], Endpoint]:
        def add(endpoint: Endpoint) -> Endpoint:
            app.head(path, include_in_schema=False)(endpoint)  # load balancers ask with HEAD
            return app.get(path, **how)(endpoint)

        return add

    @watched("/health/live", responses={503: {"description": "The models cannot be loaded."}})
    async def live() -> Response:
        """Tell whether the process should go on: 503 where its models could not be loaded."""
        if service.failed:
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "live"})

    @watched("/health/ready", responses={503: {"description": "The models are being loaded."}})
    async def ready() -> Response:
        """Tell whether requests will be answered: 200, or 503 while the models load."""
        if service.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "loading"}, 503, RETRY)

    @watched("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return counters and times in Prometheus's text format."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    async def show(request: Request) -> HTMLResponse:
        return HTMLResponse(*pages[request.url.path])

    pages = {}
    for path, file in PAGES.items():
        page = (PAGE_FOLDER / file).read_text(encoding="utf-8")
        headers = {
            "Content-Security-Policy": _content_security_policy(page),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        pages[path] = page, 200, headers
        app.add_api_route(path, show, methods=["GET", "HEAD"], include_in_schema=False)


def _content_security_policy(page: str) -> str:
    """Allow a page its own inline script and style, by hash, requests to us, and nothing else."""
    hashes = {}
    for tag in ("script", "style"):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        # A browser runs what has one of these hashes: injected text has another.
        hashes[tag] = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _add_middleware(app: FastAPI, service: Service) -> None:
    # What is added last meets a request first: even what the gate refuses is logged.
    settings = service.settings
    app.add_middleware(Gate, settings=settings, ready=lambda: service.ready)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=ALLOWED_HEADERS,
            expose_headers=("Server-Timing", "X-Request-Id"),
        )
    paths = {*app.openapi()["paths"], *PAGES}
    app.add_middleware(RequestLog, metrics=service.metrics, paths=paths)
