"""Least squares with coefficients that are not negative, shrunk towards what is known beforehand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def nonnegative_least_squares(
    matrix: FloatArray, target: FloatArray, prior: FloatArray, trust: FloatArray
) -> FloatArray:
    """The ``x >= 0`` that makes ``|matrix @ x - target|^2 + |trust * (x - prior)|^2`` least.

    Args:
        matrix: (points, coefficients).
        target: (points,).
        prior: (coefficients,) what a coefficient is where the points do not tell.
        trust: (coefficients,) how strongly, above 0, in units of the target.

    Returns:
        (coefficients,).
    """
    from scipy.optimize import nnls  # a third of a second that a roofline's run need not wait for

    # What is known beforehand is one more point for each coefficient.
    points, goal = np.vstack([matrix, np.diag(trust)]), np.concatenate([target, trust * prior])
    found: FloatArray = nnls(points, goal, maxiter=100 * len(prior))[0]  # of scipy's three times it may run out
    return found
