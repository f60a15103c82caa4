"""The native core: C behind ``cdv.h``, and its thin Python face.

::

    coding    tables, rANS, range coder      bytes ◀─▶ symbols
    deltas    delta packets of maps          a change ◀─▶ bytes
    networks  integer networks, attention    symbols ─▶ table indices
    boxes     candidates, boxes, masks       a dense head's outputs ─▶ detections

``library`` finds the compiled library. Every call releases the GIL. What is here checks nothing
that C checks, and says nothing to users: callers turn a ``CoreError`` into an error of theirs.
"""
