"""The HTTP service behind ``cdvision serve``: streams in, answers out, and a page to see it.

::

    request ─ request log ─ gate ─ route ─ batcher ─ Model.analyze ─▶ JSON
              (log line,    (key,          (streams that arrive
              metrics)      size,           within a few ms
                            number)         share a run)

Routes of tasks are made from the table ``cdvision.tasks``: nothing here names a task.
Nothing here is imported by ``import cdvision``; it needs the extra ``serve``.
"""
