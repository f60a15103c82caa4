"""Videos: frames to packets on a camera, packets to answers on a receiver.

::

    frame ─ motion gate ─ sender ─ delta or key ─▶ packet ─▶ what the receiver has ─▶ view
                 └ still: nothing changed ──────────▲
"""
