"""Entropy coding with integers only: the same bytes and the same latents on every machine.

``tables`` holds the integer probabilities of a model package, ``rans`` the coder. The coder is
compiled by numba, so it is imported where it is needed and not here.
"""
