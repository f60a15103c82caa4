"""The service without HTTP: models, batches and worker threads, and answers as dictionaries."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from cdvision.errors import ImageError
from cdvision.image_files import check_pixels, open_image, reason_of
from cdvision.serving.batching import Batcher, Question
from cdvision.serving.equal_accuracy import bytes_at_equal_accuracy
from cdvision.serving.metrics import Metrics
from cdvision.serving.request_log import log
from cdvision.serving.served_models import ServedModels
from cdvision.serving.settings import ServiceSettings
from cdvision.tasks import Task

Value = TypeVar("Value")

# What cameras and browsers write. Pillow knows forty more, one of which starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "MPO")


@dataclass(frozen=True)
class JsonAnswer:
    """One stream's answer as JSON values, with the seconds that it waited and that it took."""

    values: dict[str, Any]
    waited: float = 0.0
    took: float = 0.0


class Service:
    """What the routes call; raises ModelError or EngineError where a model cannot be loaded."""

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
        except Exception:
            # Nobody awaits this before the end: the log and /health/live tell.
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

    async def answer(
        self, task: Task, options: Mapping[str, Any], stream: bytes, model: str | None
    ) -> JsonAnswer:
        """Answer one stream, by the model that wrote it where None is named.

        Raises:
            CdvisionError: the stream is damaged, the model not served, or the task not its own.
        """
        self.models.check_task(task.name, model)
        chosen, header = self.models.for_stream(stream, model)
        # Refuses a stream of a model that lacks what another has.
        chosen.tail_for(task.name)
        question = Question(chosen, task.name, tuple(sorted(options.items())))
        pixels = header.input_width * header.input_height
        reply = await self._batcher.answer(question, stream, pixels)
        if reply.result.error is not None:
            raise reply.result.error
        return JsonAnswer(reply.result.answers[task.answer].to_dict(), reply.waited, reply.ran)

    async def encode(self, photo: bytes, model: str | None, **how: Any) -> tuple[bytes, float]:
        """Return the stream of an image file, and the seconds that it took.

        ``how`` is as of ``Model.encode``; raises CdvisionError as that does, or for no such model.
        """
        chosen = self.models.named(model)

        def encoded() -> bytes:
            check_format(photo)
            return chosen.encode(photo, **how)

        return await self._in_photo_thread(encoded)

    async def picture_codec_sizes(
        self, photo: bytes, model: str | None, quality: int | None
    ) -> JsonAnswer:
        """Return the bytes of picture codecs at the accuracy of a quality; raises CdvisionError."""
        chosen = self.models.named(model)
        wanted = chosen.checked_quality(quality)

        def measured() -> dict[str, Any]:
            check_format(photo)
            return bytes_at_equal_accuracy(photo, chosen, wanted)

        sizes, took = await self._in_photo_thread(measured)
        return JsonAnswer(sizes, took=took)

    async def _in_photo_thread(self, work: Callable[[], Value]) -> tuple[Value, float]:
        """Return what some work on a photo gives, and the seconds until it was done."""
        begin = perf_counter()
        value = await asyncio.get_running_loop().run_in_executor(self._photos, work)
        return value, perf_counter() - begin


def check_format(photo: bytes) -> None:
    """Raise ImageError unless the bytes begin like a file of one of ``FORMATS``."""
    from PIL import Image

    try:
        with open_image(io.BytesIO(photo), formats=FORMATS) as file:
            check_pixels(*file.size)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"photo: not an image that can be read{reason_of(error)}") from error
    except Exception as error:  # Pillow's readers raise a family without a common base
        known = ", ".join(FORMATS)
        raise ImageError(f"photo: expected an image file ({known}), found none") from error
