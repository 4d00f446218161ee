"""Counts against what they should be: how likely an objective's claims are.

A claim is a pair of observed and expected counts; the approximation of chi-square is good enough to tell 6 from 60 sigmas.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def brief(counts: Any) -> str:
    """The first few counts, rounded."""
    return str([round(float(x)) for x in counts[:8]]) + ("..." if len(counts) > 8 else "")


def chi_square_p(observed: np.ndarray, expected: np.ndarray) -> float:
    """Probability of counts at least this far from the expected ones; bins expecting under 5 are joined.

    By the approximation of Wilson and Hilferty (1931), good to a few percent of p.

    >>> round(chi_square_p(np.array([60.0, 20.0, 20.0]), np.array([50.0, 25.0, 25.0])), 3)  # exp(-2) = 0.135
    0.133
    """
    if np.any((expected <= 0) & (observed > 0)):
        return 0.0
    small = expected < 5
    observed = np.append(observed[~small], observed[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    used = expected > 0
    statistic = float(np.sum((observed[used] - expected[used]) ** 2 / expected[used]))
    freedom = max(1, int(used.sum()) - 1)
    spread = 2 / (9 * freedom)
    return 0.5 * math.erfc(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(2 * spread))


def least_likely(counts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, str]:
    """(-log10 of the smallest p-value, its limit, the claim with its furthest count in standard deviations)."""
    worst, detail = -1.0, ""
    for claim, (observed, expected) in counts.items():
        observed, expected = np.asarray(observed, float), np.asarray(expected, float)
        surprise = float(-np.log10(max(chi_square_p(observed, expected), 1e-300)))
        if surprise > worst:
            off = (observed - expected) / np.sqrt(np.maximum(expected, 1.0))
            at = int(np.argmax(np.abs(off)))
            worst, detail = (
                surprise,
                (
                    f"{claim}: observed {brief(observed)}, expected {brief(expected)}; count {at} is off by "
                    f"{off[at]:+.1f} sigmas"
                ),
            )
    return max(worst, 0.0), 6.0, detail
