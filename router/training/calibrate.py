"""Stage 5, calibrate: a temperature and thresholds, from predictions on sources that training had not seen.

Sources are split into folds; a student trained without a fold predicts it. On these predictions the temperature (Guo
et al. 2017) minimises the calibration error, and thresholds by domain are set where the marginal accuracy (isotonic in
the confidence) falls below one common level, the highest that still covers the wanted share of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from router.manifest import Policy
from router.training.balance import REJECTED
from router.training.collect import Prompt

COVERAGE = 0.775
"""Share of the held-out prompts that is decided. The shipped student knows all sources and is surer: more of what it
meets is decided, 0.86 of the development set."""

SHARPENING = 0.9
"""Factor of the temperature, for the same reason: students of a fold are right less often than the one that ships."""


@dataclass(frozen=True, slots=True)
class Confidences:
    """Per row: the best domain's index, its confidence, whether it is right, and all domains' probabilities."""

    best: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]
    probabilities: NDArray[np.float64]


def folds(rows: Sequence[Prompt], count: int) -> NDArray[np.int64]:
    """A fold for each row; a source is in one fold, and so are sources of one family (same name up to a separator)."""
    return np.array([crc32(_family(row.source).encode()) % count for row in rows])


def temperature(
    logits: NDArray[np.float32], names: Sequence[str], rows: Sequence[Prompt], weights: NDArray[np.float64]
) -> float:
    """The divisor of the logits with the least calibration error of the confidences, rows of domains only."""
    weights = weights * [row.domain not in REJECTED for row in rows]
    errors = []
    divisors = np.geomspace(0.4, 3, 61)
    for divisor in divisors:
        found = confidences(logits, names, rows, float(divisor))
        bins = np.minimum((found.confidence * 10).astype(int), 9)
        gaps = weights * (found.confidence - found.right)
        errors.append(sum(abs(gaps[bins == b].sum()) for b in range(10)))
    return float(divisors[int(np.argmin(errors))])


def confidences(
    logits: NDArray[np.float32], names: Sequence[str], rows: Sequence[Prompt], divisor: float
) -> Confidences:
    """What `router.TinyAda` would say with temperature ``divisor``."""
    scaled = logits.astype(np.float64) / divisor
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    powers /= powers.sum(1, keepdims=True)
    domains = [i for i, name in enumerate(names) if name not in REJECTED]
    among = powers[:, domains] / powers[:, domains].sum(1, keepdims=True)
    doubt = np.ones(len(rows))
    for name in REJECTED:
        if name in names:
            doubt *= 1 - powers[:, list(names).index(name)]
    best = among.argmax(1)
    found = [names[domains[i]] for i in best]
    right = np.array([name == row.domain or name in row.also for name, row in zip(found, rows, strict=True)])
    return Confidences(best, among.max(1) * doubt, right, among)


def policy(
    logits: NDArray[np.float32],
    names: Sequence[str],
    rows: Sequence[Prompt],
    weights: NDArray[np.float64],
    coverage: float = COVERAGE,
    sharpening: float = SHARPENING,
) -> Policy:
    """Temperature, and thresholds that leave ``coverage`` of the prompts (of domains) decided."""
    divisor = sharpening * temperature(logits, names, rows, weights)
    found = confidences(logits, names, rows, divisor)
    domains = [name for name in names if name not in REJECTED]
    counted = np.array([row.domain not in REJECTED for row in rows])
    low, high = 0.0, 1.0
    for _ in range(30):
        level = (low + high) / 2
        limits = _limits(found, weights, len(domains), level)
        served = found.confidence >= limits[found.best]
        share = (weights * served)[counted].sum() / weights[counted].sum()
        low, high = (level, high) if share >= coverage else (low, level)
    limits = _limits(found, weights, len(domains), low)
    thresholds = {name: round(float(limit), 4) for name, limit in zip(domains, limits, strict=True)}
    mentions = {name: round(max(0.15, min(0.35, limit)), 4) for name, limit in thresholds.items()}
    return Policy(temperature=round(divisor, 4), thresholds=thresholds, mentions=mentions)


def _limits(found: Confidences, weights: NDArray[np.float64], domains: int, level: float) -> NDArray[np.float64]:
    """By domain, the least confidence at which a decision is right with probability ``level`` or more."""
    grid = np.linspace(0.2, 0.95, 151)
    limits = np.zeros(domains)
    for domain in range(domains):
        mine = found.best == domain
        if mine.sum() < 30:
            mine = np.ones(len(found.best), dtype=bool)
        curve = IsotonicRegression(out_of_bounds="clip").fit(
            found.confidence[mine], found.right[mine], sample_weight=weights[mine]
        )
        enough = np.nonzero(curve.predict(grid) >= level)[0]
        limits[domain] = grid[enough[0]] if len(enough) else grid[-1]
    return limits


def _family(source: str) -> str:
    for mark in ("(", "-", ":", "_", " "):
        if not source.startswith(("own:", "se:")):
            source = source.split(mark)[0]
    return source
