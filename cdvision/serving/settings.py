"""What a service may take, and from whom: every limit in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdvision.errors import CdvisionError
from cdvision.numbers import check_number, checked_count
from cdvision.package.registry import DEFAULT_MODEL
from cdvision.texts import several

MEBIBYTE = 2**20


@dataclass(frozen=True)
class ServiceSettings:
    """Limits and options of one service.

    Attributes:
        models: names or folders of the models that are served; the first encodes by default.
        engine: ``"onnx"`` or ``"torch"``.
        device: ``"cpu"`` or ``"cuda"``.
        threads: threads inside one run of the engine; its default where None.
        max_body_bytes: a longer request body is refused with 413.
        max_requests: requests at work at once; one more is refused with 503.
        max_streams: streams in one multipart request.
        max_batch: streams that share one run of the networks.
        batch_window: seconds that the first stream of a batch waits for others.
        body_seconds: a body that takes longer to arrive is refused with 408.
        api_key: what ``/v1`` and ``/metrics`` ask for, without the spaces and line ends around
            it, in UTF-8; nothing where None.
        cors_origins: origins whose pages may call the service; none by default.

    Raises:
        CdvisionError: a limit below what the service can work with.
    """

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    engine: str = "onnx"
    device: str = "cpu"
    threads: int | None = None
    max_body_bytes: int = 16 * MEBIBYTE
    max_requests: int = 64
    max_streams: int = 64
    max_batch: int = 16
    batch_window: float = 0.004
    body_seconds: float = 30.0
    # repr would put the key into logs and tracebacks
    api_key: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # One name stands for itself: its letters are no models.
        for name in ("models", "cors_origins"):
            object.__setattr__(self, name, several(getattr(self, name)))
        if not self.models:
            raise CdvisionError("models: expected at least one model to serve, found none")
        for name in ("max_body_bytes", "max_requests", "max_streams", "max_batch"):
            checked_count(name, getattr(self, name))
        for name, least in (("batch_window", 0), ("body_seconds", 1e-3)):
            check_number(name, getattr(self, name), least, None)
        if self.api_key is not None:
            object.__setattr__(self, "api_key", _key(self.api_key))


def _key(given: str) -> str:
    """Return an API key as requests can carry it: files and secrets end their lines."""
    key = given.strip()
    if not key or any(ord(letter) < ord(" ") for letter in key):
        raise CdvisionError(
            "api_key: expected one line of text, found none or several; leave it out for no key"
        )
    return key
