"""The heads by the name that a card gives them: how dense outputs become an answer.

A head is a function of a ``Question``. Packages of third parties add theirs by the entry point
``cdvision.heads``, whose name is the head's and whose value is "module:function".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from numpy.typing import NDArray

from cdvision.errors import ModelError, UnsupportedTask
from cdvision.package.families import imported

Arrays = dict[str, NDArray[Any]]
Size = tuple[int, int]

# Name on a card -> "module:function" of a ``Question`` to an answer.
HEADS = {
    "distribution": "cdvision.heads.dense_detection:answer_objects",
    "two_stage": "cdvision.heads.two_stage.detector:answer_objects",
    "classes": "cdvision.heads.class_scores:answer_classes",
    "attributes": "cdvision.heads.attribute_answers:answer_attributes",
    "picture": "cdvision.heads.registry:answer_picture",
}


@dataclass(frozen=True)
class Question:
    """One question about one stream, and what its tail has computed."""

    task: str  # its name
    options: Mapping[str, Any]  # of the task, every one filled in
    dense: Arrays  # the tail's dense outputs, without a batch axis
    settings: Mapping[str, Any]  # what the card says of the tail's head
    class_names: Sequence[str]  # of the tail, in the order of its outputs
    layers: int  # how many layers of the stream the tail was answered from
    input_size: Size  # (width, height) of the network input
    content_size: Size  # (width, height) of the photo in it, at the top left
    source_size: Size  # (width, height) of the photo
    # Runs another graph of the tail, ``"box"`` say, on named arrays.
    run: Callable[[str, Arrays], Arrays]


def answer(head: str, question: Question) -> Any:
    """Answer a question with a head.

    Raises:
        UnsupportedTask: the head gives features only.
        ModelError: there is no such head.
    """
    if head == "raw":
        task = question.task
        raise UnsupportedTask(f"no head answers {task!r}: this tail gives its outputs as is")
    table = {**HEADS, **_installed(), **HEADS}  # nobody takes the place of a head of ours
    if head not in table:
        raise ModelError(f"head: expected one of {', '.join(table)}, found {head!r}")
    return imported(table[head])(question)


def answer_picture(question: Question) -> NDArray[Any]:
    """Return the picture (H, W, 3) uint8 RGB that the tail has drawn, of the input's size."""
    return question.dense["image"]


@cache
def _installed() -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group="cdvision.heads")}
