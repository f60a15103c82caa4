"""Accuracy over labelled photos: every photo is answered once, then scored with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cdvision.errors import ImageError
from cdvision.evaluation.answer_cache import AnswerCache
from cdvision.evaluation.answer_formats import CLASSES, AnswerFormat
from cdvision.evaluation.bootstrap import RESAMPLES, Draws, Scorer, bootstrap
from cdvision.evaluation.labelled import LabelledPhoto
from cdvision.evaluation.notices import notice

# Bytes of a photo's file -> answer, and number of bytes sent.
AnswerPhoto = Callable[[bytes], tuple[Any, int]]


class Scoring(Protocol):
    """What a data format knows: the task, the form of its answers, and how they are scored."""

    @property
    def task(self) -> str:
        """Name of the method of a model that answers."""

    @property
    def format(self) -> AnswerFormat[Any]:
        """How answers are kept."""

    def scorer(self, labels: Sequence[int], answers: Sequence[Any]) -> Scorer:
        """Compare answers with labels once; return what gives the figures for weightings."""


class TopScoring:
    """Share of photos whose class is the first (``top1``), or among the first five (``top5``)."""

    format = CLASSES
    task = "classify"

    def scorer(self, labels: Sequence[int], answers: Sequence[NDArray[np.int64]]) -> Scorer:
        """Compare class indices, best first, with the labelled ones."""
        pairs = list(zip(labels, answers, strict=True))
        right = {
            f"top{count}": np.array([float(label in found[:count]) for label, found in pairs])
            for count in (1, 5)
        }

        def figures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
            total = weights.sum(axis=1)
            return {name: weights @ values / total for name, values in right.items()}

        return figures


def measure_accuracy(
    photos: Iterable[LabelledPhoto],
    scoring: Scoring,
    answer: AnswerPhoto,
    *,
    label: str = "",
    cache: AnswerCache | None = None,
    resamples: int = RESAMPLES,
    keep: Draws | None = None,
) -> dict[str, Any]:
    """Answer every photo and return the record: task, photos, mean bytes, figures, intervals.

    Photos that a model refuses, or that are damaged, are left out, and counted in ``refused``.
    ``cache`` keeps answers as they come, so that an interrupted run goes on from there;
    ``resamples`` and ``keep`` are those of ``bootstrap``. Raises ImageError if all were refused.
    """
    labels: list[int] = []
    answers: list[Any] = []
    sizes: list[int] = []
    refusals: list[ImageError] = []
    for photo in tqdm(photos, desc=label, unit="photo", disable=None):
        try:
            found, size = _answered(photo.data, scoring.format, answer, cache)
        except ImageError as error:
            refusals.append(error)
            continue
        labels.append(photo.label)
        answers.append(found)
        sizes.append(size)
    if refusals:
        if not labels:
            raise refusals[0]
        notice(f"{label}: {len(refusals)} photos left out: {refusals[0]}")
    scorer = _with_bytes(scoring.scorer(labels, answers), np.array(sizes, np.float64))
    figures = bootstrap(scorer, len(labels), resamples=resamples, keep=keep)
    refused = {"refused": len(refusals)} if refusals else {}
    facts = {"task": scoring.task, "photos": len(labels), **refused, "resamples": resamples}
    return {**facts, **figures}


def _answered(
    photo: bytes, form: AnswerFormat[Any], answer: AnswerPhoto, cache: AnswerCache | None
) -> tuple[Any, int]:
    """Return an answer as it is read back, so that kept and fresh ones are scored alike."""
    if cache is not None and (kept := cache.get(photo)) is not None:
        return kept
    found, size = answer(photo)
    plain = form.write(found)
    if cache is not None:
        cache.put(photo, plain, size)
    return form.read(plain), size


def _with_bytes(scorer: Scorer, sizes: NDArray[np.float64]) -> Scorer:
    def figures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"mean_bytes": weights @ sizes / weights.sum(axis=1), **scorer(weights)}

    return figures
