"""The models that a service answers with: chosen by name, or by the fingerprint in a stream."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import numpy as np

import cdvision
from cdvision.errors import BitstreamError, ModelError, UnsupportedTask
from cdvision.model import Model
from cdvision.serving.errors import ServiceError
from cdvision.serving.settings import ServiceSettings
from cdvision.stream import StreamHeader
from cdvision.stream.header import FINGERPRINT_BYTES
from cdvision.stream.parser import DEFAULT_LIMITS, decode_header
from cdvision.tasks import tasks

WARM_UP_SIZE = (224, 224, 3)
FINGERPRINT_OFFSET = 5  # behind the magic, the format's version and the codec
SENDER_FIGURES = ("multiply_adds", "milliseconds", "measured_on")


class ServedModels:
    """Loaded models; a request can name these and nothing else, no folder above all.

    Raises ModelError where two have one name, and what ``cdvision.load`` raises.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._models: dict[str, Model] = {}
        for name in settings.models:
            model = cdvision.load(
                name, engine=settings.engine, device=settings.device, threads=settings.threads
            )
            if model.name in self._models:
                raise ModelError(f"two of the models to serve are called {model.name!r}")
            self._models[model.name] = model

    @property
    def default(self) -> Model:
        """The model that encodes where none is named."""
        return next(iter(self._models.values()))

    def named(self, name: str | None) -> Model:
        """Return a model by its name, the default where None; raises ServiceError (404)."""
        if name is None:
            return self.default
        if name not in self._models:
            known = ", ".join(self._models)
            raise ServiceError(
                HTTPStatus.NOT_FOUND, f"model: expected one that is served here ({known})"
            )
        return self._models[name]

    def for_stream(self, bits: bytes, name: str | None) -> tuple[Model, StreamHeader]:
        """Return the model to ask about a stream, and the stream's header.

        Raises BitstreamError where the header is damaged or its model not served, ServiceError
        (404) where no model of that name is.
        """
        header, _ = decode_header(memoryview(bits), DEFAULT_LIMITS)
        if name is not None:
            return self.named(name), header
        for model in self._models.values():
            if model.package.coder.fingerprint[:FINGERPRINT_BYTES] == header.fingerprint:
                return model, header
        known = ", ".join(f"{m.card.fingerprint[:8]} ({m.name})" for m in self._models.values())
        raise BitstreamError(
            "model fingerprint",
            offset=FINGERPRINT_OFFSET,
            expected=f"that of a served model: {known}",
            found=header.fingerprint.hex(),
        )

    def check_task(self, task: str, name: str | None) -> None:
        """Raise UnsupportedTask where no served model, or not the named one, has a task."""
        models = self._models.values() if name is None else [self.named(name)]
        if all(model.card.tail_for(task) is None for model in models):
            known = "; ".join(f"{model.name}: {', '.join(model.card.tasks)}" for model in models)
            raise UnsupportedTask(f"no model served here has the task {task!r} ({known})")

    def warm_up(self) -> None:
        """Open every graph and compile the entropy coder before the first request waits for it."""
        for model in self._models.values():
            bits = model.encode(np.zeros(WARM_UP_SIZE, np.uint8), check=False)
            for task in _served_tasks(model):
                for streams in ([bits], [bits, bits]):  # alone, and side by side
                    for _ in model.analyze(streams, tasks=(task,), batch_size=1):
                        pass

    def describe(self) -> list[dict[str, Any]]:
        """Return what ``/v1/models`` tells, the default model first."""
        return [_describe(model) for model in self._models.values()]


def _served_tasks(model: Model) -> list[str]:
    """Return the names of the tasks that have a path here and that a model answers."""
    able = model.card.tasks
    return [task.name for task in tasks().values() if task.in_tables and task.name in able]


def _describe(model: Model) -> dict[str, Any]:
    card = model.card
    return {
        "name": card.name,
        "description": card.description,
        "tasks": list(card.tasks),
        "senders": [
            {"name": name, **{figure: getattr(sender, figure) for figure in SENDER_FIGURES}}
            for name, sender in card.senders.items()
        ],
        "qualities": card.qualities,
        "default_quality": card.default_quality,
        "input_size": {
            "default": card.input.size,
            "largest": card.input.max_size,
            "multiple": card.input.multiple,
        },
        "fingerprint": card.fingerprint,
        "licence": card.licence,
    }
