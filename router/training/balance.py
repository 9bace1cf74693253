"""How often each row is drawn: domains alike, sources by the root of their size, so that breadth counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.training.collect import OUTLIER, Prompt
from router.training.followups import FOLLOWUP

REJECTED = (FOLLOWUP, OUTLIER)
"""Outputs that are no domains, in their order."""


def weights(rows: Sequence[Prompt], power: float = 0.5, rejected_share: float = 0.5) -> NDArray[np.float64]:
    """Sampling probabilities, summing to 1, one per row.

    A source of n rows weighs ``n ** power`` within its domain; every domain weighs the same, and outliers
    and follow-ups ``rejected_share`` of a domain.
    """
    sizes = Counter((row.domain, row.source) for row in rows)
    totals: dict[str, float] = defaultdict(float)
    for (domain, _), size in sizes.items():
        totals[domain] += size**power
    shares = {domain: rejected_share if domain in REJECTED else 1.0 for domain in totals}
    raw = np.array(
        [shares[row.domain] * sizes[row.domain, row.source] ** (power - 1.0) / totals[row.domain] for row in rows]
    )
    return np.asarray(raw / raw.sum(), dtype=np.float64)


def labels(rows: Sequence[Prompt]) -> tuple[str, ...]:
    """The domains in alphabetical order, then the outputs that are no domains (outlier always there)."""
    found = {row.domain for row in rows}
    rejected = [name for name in REJECTED if name in found or name == OUTLIER]
    return (*sorted(found - set(REJECTED)), *rejected)


def targets(rows: Sequence[Prompt], names: Sequence[str], smoothing: float = 0.0) -> NDArray[np.float32]:
    """Label distributions, shape (rows, names): ``also`` shares a third of the mass, smoothing is uniform."""
    index = {name: i for i, name in enumerate(names)}
    result = np.zeros((len(rows), len(names)), dtype=np.float32)
    for i, row in enumerate(rows):
        also = [index[name] for name in row.also if name in index and name != row.domain]
        result[i, index[row.domain]] = 2 / 3 if also else 1.0
        for j in also:
            result[i, j] += 1 / (3 * len(also))
    return (1 - smoothing) * result + np.float32(smoothing / len(names))
