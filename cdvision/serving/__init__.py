"""The HTTP service behind ``cdvision serve``: streams in, answers out, and a page to see it.

::

    request ─ observer ─ gate ─ route ─ batcher ─ Model.analyze ─▶ JSON
              (log,      (key,          (streams that arrive
              metrics)   size,           within a few ms
                         number)         share a run)

Nothing here is imported by ``import cdvision``; it needs the extra ``serve``.
"""
