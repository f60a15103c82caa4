"""The paths of tasks, ``/v1/detect`` say, made from the one table: ``cdvision.tasks``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from inspect import Parameter, Signature
from typing import Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from cdvision.serving.json_answers import answer_request, service_of
from cdvision.serving.openapi import describe_body, json_responses
from cdvision.tasks import Task, TaskOption, tasks

STREAM_TYPE = "application/octet-stream"
MOST = 1000  # the highest whole number of an option without a limit of its own


def task_router() -> APIRouter:
    """Return a path for each task that goes into tables, and ``/v1/tasks``, which lists them."""
    router = APIRouter(prefix="/v1")
    served = [task for task in tasks().values() if task.in_tables]
    for task in served:
        result = task.result.partition(":")[2]
        router.add_api_route(
            f"/{task.name}",
            _endpoint(task),
            methods=["POST"],
            name=task.name,
            description=task.summary,
            openapi_extra=describe_body(STREAM_TYPE),
            responses=json_responses(task.example, f"The answer, as {result}.to_dict() gives it."),
        )

    @router.get("/tasks", responses=json_responses({"tasks": []}, "In the order of the table."))
    async def list_tasks() -> Response:
        """List the tasks, with their options; of those with one ``answer`` the first says most."""
        return JSONResponse({"tasks": [_describe(task) for task in served]})

    return router


def _endpoint(task: Task) -> Callable[..., Awaitable[Response]]:
    async def ask(request: Request, model: str | None, **options: Any) -> Response:
        service = service_of(request)
        return await answer_request(
            request, lambda stream: service.answer(task, options, stream, model)
        )

    # FastAPI reads the parameters of a query from the signature: the task's options become some.
    ask.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter("request", Parameter.KEYWORD_ONLY, annotation=Request),
            *(_parameter(option) for option in task.options if option.batched),
            Parameter(
                "model",
                Parameter.KEYWORD_ONLY,
                annotation=str | None,
                default=Query(
                    None, max_length=200, description="Default: the one that wrote the stream."
                ),
            ),
        ]
    )
    return ask


def _parameter(option: TaskOption) -> Parameter:
    """Return the parameter of a query that carries an option."""
    kind = type(option.default)
    query = Query(
        option.default,
        description=option.help,
        ge=option.low,
        le=MOST if kind is int and option.high is None else option.high,
        allow_inf_nan=False if kind is float else None,
    )
    return Parameter(option.name, Parameter.KEYWORD_ONLY, annotation=kind, default=query)


def _describe(task: Task) -> dict[str, Any]:
    """Return what ``/v1/tasks`` tells of a task."""
    return {
        "name": task.name,
        "summary": task.summary,
        "answer": task.answer,
        "column": asdict(task.column) if task.column else None,
        "options": [asdict(option) for option in task.options if option.batched],
    }
