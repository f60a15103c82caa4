"""Task heads: a dense network and its numpy post-processing, side by side.

The post-processing is shared by all engines; it needs numpy, and the core for boxes and masks.
"""
