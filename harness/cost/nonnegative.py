"""Least squares with coefficients that are not negative, shrunk towards what is known beforehand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def nonnegative_least_squares(
    matrix: FloatArray, target: FloatArray, prior: FloatArray, trust: FloatArray
) -> FloatArray:
    """The ``x >= 0`` that makes ``|matrix @ x - target|^2 + |trust * (x - prior)|^2`` least.

    Block principal pivoting (Kim and Park, 2011): solve for the coefficients taken to be positive, exchange all that
    turn out on the wrong side, and one at a time once that stops getting better (Murty's rule), which always ends.

    Args:
        matrix: (points, coefficients).
        target: (points,).
        prior: (coefficients,) what a coefficient is where the points do not tell.
        trust: (coefficients,) how strongly, above 0, in units of the target.

    Returns:
        (coefficients,).
    """
    gram = matrix.T @ matrix + np.diag(trust**2)
    pull = matrix.T @ target + trust**2 * prior
    tolerance = 1e-10 * np.abs(pull).max(initial=1e-300)
    positive = np.ones(len(pull), bool)
    fewest, patience = len(pull) + 1, 3
    for _ in range(20 * len(pull) + 20):
        x = np.zeros(len(pull))
        x[positive] = np.linalg.solve(gram[np.ix_(positive, positive)], pull[positive])
        slope = gram @ x - pull
        wrong = (positive & (x < 0)) | (~positive & (slope < -tolerance))
        count = int(wrong.sum())
        if not count:
            break
        if count < fewest:
            fewest, patience = count, 3
        elif patience:
            patience -= 1
        else:
            last = int(np.flatnonzero(wrong)[-1])
            wrong = np.arange(len(pull)) == last
        positive ^= wrong
    return np.maximum(x, 0.0)
