"""Fréchet distance of two sets of feature vectors, each taken as a normal distribution.

Source: M. Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium", NeurIPS 2017. Theirs, FID, is on Inception's features; with other features the figure
is FID-like, and can be compared only with those on the same features and numbers of pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError

Vectors = NDArray[np.float64]


def frechet_distance(found: Vectors, wanted: Vectors) -> float:
    """Return |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½) of two sets of vectors.

    Few vectors overestimate it: compare sets of one size only.

    >>> corners = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
    >>> round(frechet_distance(corners + [3, 4], corners), 9)
    25.0

    Args:
        found: (N, D) float64, N at least 2.
        wanted: (M, D) float64, M at least 2.

    Raises:
        CdvisionError: a set has fewer than two vectors, or their lengths differ.
    """
    for vectors in (found, wanted):
        if vectors.ndim != 2 or len(vectors) < 2 or vectors.shape[1] != wanted.shape[1]:
            raise CdvisionError(
                "Fréchet distance: expected at least two vectors of one length in both sets, "
                f"found shapes {found.shape} and {wanted.shape}"
            )
    shift = found.mean(axis=0) - wanted.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (found, wanted))
    root = _square_root(first)
    # tr (C1 C2)^½ is the sum of the roots of C1^½ C2 C1^½'s eigenvalues: symmetric, thus stable.
    mixed = np.linalg.eigvalsh(root @ second @ root)
    overlap = np.sqrt(np.maximum(mixed, 0)).sum()
    return float(max(0.0, shift @ shift + np.trace(first) + np.trace(second) - 2 * overlap))


def _square_root(covariance: Vectors) -> Vectors:
    """Return the symmetric root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
