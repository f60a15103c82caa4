"""The service without HTTP: models, batches and worker threads, and answers as dictionaries."""

from __future__ import annotations

import asyncio
import io
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any, TypeVar

from cdvision.errors import ImageError
from cdvision.evaluation.rivals import RIVALS, missing, shrink
from cdvision.model import Model
from cdvision.photo import read_photo
from cdvision.serving.batching import Batcher, Question
from cdvision.serving.metrics import Metrics
from cdvision.serving.request_log import log
from cdvision.serving.served_models import ServedModels
from cdvision.serving.settings import ServiceSettings
from cdvision.tasks import Task

Value = TypeVar("Value")

# What cameras and browsers write. Pillow knows forty more, one of which starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "MPO")
# The default of each codec's own tool: libjpeg, cwebp, libheif. A person sees no damage there.
USUAL_QUALITIES = {"hevc": 50, "webp": 75, "jpeg": 75}


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

    async def picture_codec_sizes(self, photo: bytes, model: str | None) -> JsonAnswer:
        """Return the bytes of the same picture in picture codecs; raises CdvisionError."""
        chosen = self.models.named(model)
        sizes, took = await self._in_photo_thread(lambda: measure_picture_codecs(photo, chosen))
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
        with warnings.catch_warnings():
            # How many pixels are too many is the model's to say, when it reads the photo.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.open(io.BytesIO(photo), formats=FORMATS).close()
    except Exception as error:  # Pillow's readers raise a family without a common base
        known = ", ".join(FORMATS)
        raise ImageError(f"photo: expected an image file ({known}), found none") from error


def measure_picture_codecs(photo: bytes, model: Model) -> dict[str, Any]:
    """Return the bytes of the same picture, as many pixels as the stream's, in picture codecs.

    A codec that is not installed is left out. Qualities are each tool's default
    (``USUAL_QUALITIES``), not matched to each other: it is what people send.
    """
    check_format(photo)
    picture = shrink(read_photo(photo), model.card.input.size)
    codecs = []
    for name, quality in USUAL_QUALITIES.items():
        if _installed(name):
            size = len(RIVALS[name].encode(picture, quality))
            title = RIVALS[name].title
            codecs.append({"name": name, "title": title, "quality": quality, "bytes": size})
    return {"width": picture.width, "height": picture.height, "codecs": codecs}


@cache
def _installed(name: str) -> bool:
    return missing(RIVALS[name]) is None
