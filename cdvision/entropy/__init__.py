"""Entropy coding with integers only: the same bytes and the same latents on every machine.

``tables`` holds the integer probabilities of a model package, ``rans`` and ``range_coder`` the
coders, thin over ``cdvision.core``.
"""
