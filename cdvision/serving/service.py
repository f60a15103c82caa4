"""The service without HTTP: models, batches and worker threads, and answers as dictionaries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from cdvision.analysis import AnalysisResult
from cdvision.errors import CdvisionError, UnsupportedTask
from cdvision.serving.batching import Batcher, Question, Reply
from cdvision.serving.logs import LOGGER
from cdvision.serving.metrics import Metrics
from cdvision.serving.photos import encode_photo, picture_codec_sizes
from cdvision.serving.served_models import ServedModels
from cdvision.serving.settings import ServiceSettings

log = logging.getLogger(LOGGER)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Asked:
    """One request's question, before its stream has chosen the model."""

    task: str
    confidence: float = 0.3
    top: int = 5
    model: str | None = None


@dataclass(frozen=True)
class Answer:
    """One stream's answer as JSON values, with the seconds that it waited and that it took."""

    values: dict[str, Any]
    waited: float = 0.0
    took: float = 0.0


class Service:
    """What the routes call.

    Args:
        settings: limits and models.

    Raises:
        ModelError: a model is missing or damaged.
        EngineError: the engine or device is not available.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.models = ServedModels(settings)
        self.ready, self.failed = False, False
        self._batcher = Batcher(
            self.metrics, max_batch=settings.max_batch, window=settings.batch_window
        )
        # Photos of strangers may take long to decode: they must not hold up the streams.
        self._photos = ThreadPoolExecutor(1, thread_name_prefix="cdvision-photos")

    async def start(self) -> None:
        """Load every graph, then be ready; runs beside the server, which already tells so."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._photos, self.models.warm_up)
        except Exception:  # nobody awaits this before the end: the log and /health/live tell
            log.exception("the models cannot be loaded")
            self.failed = True
            return
        self._batcher.start()
        self.ready = True

    async def close(self) -> None:
        """Stop the workers; requests at work have been answered by then."""
        self.ready = False
        await self._batcher.close()
        self._photos.shutdown(wait=True)

    async def answer(self, asked: Asked, bits: bytes) -> Answer:
        """Answer one stream.

        Raises:
            CdvisionError: the stream is damaged, the model not served, or the task not its own.
        """
        self.models.check_task(asked.task, asked.model)
        model, header = self.models.for_stream(bits, asked.model)
        if model.card.tail_for(asked.task) is None:
            raise UnsupportedTask(model.no_task_message(asked.task))
        question = Question(model, asked.task, asked.confidence, asked.top)
        pixels = header.input_width * header.input_height
        reply: Reply = await self._batcher.answer(question, bits, pixels)
        if reply.result.error is not None:
            raise reply.result.error
        return Answer(_values(reply.result, asked.task), reply.waited, reply.ran)

    async def encode(
        self, photo: bytes, model: str | None, quality: int | None, size: int | None
    ) -> bytes:
        """Return the stream of an image file; raises CdvisionError."""
        chosen = self.models.named(model)
        return await self._with_photo(lambda: encode_photo(photo, chosen, quality, size))

    async def picture_codec_sizes(self, photo: bytes, model: str | None) -> dict[str, Any]:
        """Return the bytes of the same picture in picture codecs; raises CdvisionError."""
        chosen = self.models.named(model)
        return await self._with_photo(lambda: picture_codec_sizes(photo, chosen))

    async def _with_photo(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._photos, work)


def _values(result: AnalysisResult, task: str) -> dict[str, Any]:
    field = {"classify": "classification", "attributes": "attributes"}.get(task, "detections")
    found = getattr(result, field, None)
    if found is None:
        raise CdvisionError(f"{task}: the model gave no answer of that kind")
    values: dict[str, Any] = found.to_dict()
    return values
