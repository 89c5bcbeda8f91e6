"""Slopes that a few odd iterations cannot bend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_POINTS = 400
"""Longer series are thinned out evenly: the number of pairs grows with the square."""


def theil_sen(x: Sequence[float], y: Sequence[float]) -> float:
    """Median of the slopes of all pairs of points.

    Args:
        x: Distinct, ascending positions.
        y: Value at each position.

    Returns:
        The slope, 0 for fewer than two points.

    Raises:
        ValueError: `x` and `y` differ in length.

    Source:
        P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau",
        Journal of the American Statistical Association 63, 1968.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} positions but {len(y)} values")
    if len(x) < 2:
        return 0.0
    chosen = np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).astype(np.intp)
    positions = np.asarray(x, np.float64)[chosen]
    values = np.asarray(y, np.float64)[chosen]
    first, second = np.triu_indices(len(chosen), k=1)
    return float(np.median((values[second] - values[first]) / (positions[second] - positions[first])))
