"""A domain added from a few examples, in closed form: no training, no torch.

The features are what the student pools from a text, before its dense layers. Within each known class they are taken as
normal with one covariance (linear discriminant analysis); the new class has its examples, each drawn most of the way
to their mean, as centres. The log-odds against all known classes become one more logit. Its offset is set on features
of training prompts, kept in ``statistics.npz``, so that only two in a hundred of them would change their domain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.errors import RouterError

LEAST, MOST = 16, 1_000
"""How many examples a domain needs, and how many it may have."""

CHANGED, SERVED = 0.02, 0.005
"""Shares of the known classes' prompts that may go to the new domain, and that may be served by it."""

LEAST_RECALL = 0.3
"""Share of the examples that must find the new domain when it is made without them."""

_APART = 0.2  # how far each centre is from the mean of the examples, as a share of its example's distance
_SOFTENING = 0.5  # the log-odds count for so much: features are not quite normal
_CENTRES = 64

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the known classes' features: ``mean`` (features,); ``basis`` (features, k), which makes their covariance
    within a class the identity; ``centres`` (classes, k); ``reference`` (prompts, k) of training prompts, and
    ``margins`` (prompts,), by how much a logit above the logarithm of their summed powers would win."""

    mean: Floats
    basis: Floats
    centres: Floats
    reference: Floats
    margins: Floats

    @classmethod
    def read(cls, path: Path) -> Statistics:
        """Raises `RouterError`."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                basis = stored["basis"].astype(np.float32) * stored["basis_scale"]
                reference = stored["reference"].astype(np.float32) / 2
                parts = [stored[name].astype(np.float32) for name in ("mean", "centres", "margins")]
        except (OSError, ValueError, KeyError) as error:
            raise RouterError(f"{path} cannot be read: {error}") from error
        return cls(parts[0], basis, parts[1], reference, parts[2])

    def write(self, path: Path) -> None:
        """In small integers where they do: the basis in 8 bits, the reference in halves of a deviation."""
        scale = np.abs(self.basis).max(0) / 127
        np.savez_compressed(
            path,
            mean=self.mean.astype(np.float16),
            basis=np.round(self.basis / scale).astype(np.int8),
            basis_scale=scale.astype(np.float32),
            centres=self.centres.astype(np.float16),
            reference=np.clip(np.round(self.reference * 2), -127, 127).astype(np.int8),
            margins=self.margins.astype(np.float16),
        )

    def project(self, features: Floats) -> Floats:
        return np.asarray((features - self.mean) @ self.basis, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class AddedDomain:
    """One more class. ``threshold``: least confidence it is served with. ``recall``: share of its examples that find
    it when it is made without them. ``digest`` changes with the examples, and with the TinyAda it was made for."""

    name: str
    threshold: float
    recall: float
    digest: str
    weights: Floats
    bias: Floats
    classes: int
    offset: float

    def logit(self, features: Floats, logits: Sequence[float]) -> float:
        """The class's logit beside the others', for one text's features, shape (features,)."""
        scores: list[float] = (features @ self.weights + self.bias).tolist()
        known, new = scores[: self.classes], scores[self.classes :]
        odds = _summed(new) - log(len(new)) - _summed(known)
        return _summed(logits) + _SOFTENING * odds - self.offset


def fit(
    name: str, features: Floats, statistics: Statistics, temperature: float, made_for: str, texts: Sequence[str]
) -> AddedDomain:
    """The class of examples with these features, shape (examples, features). Raises `RouterError` where they do not
    tell it from the known classes."""
    found = statistics.project(features)
    new = _centres(found)
    offset, margins = _offset(statistics, new)
    recall = _recall(found, statistics)
    if recall < LEAST_RECALL:
        raise RouterError(
            f"the examples do not tell {name!r} from the domains that are known: made without it, the new domain "
            f"would get {recall:.0%} of them; give more of them, and more alike"
        )
    quantile = float(np.quantile(margins - offset, 1 - SERVED))
    threshold = 1 / (1 + exp(-min(max(quantile, -5.0), 5.0) / temperature))
    every = np.concatenate([statistics.centres, new])
    weights = statistics.basis @ every.T
    return AddedDomain(
        name=name,
        threshold=round(min(max(threshold, 0.4), 0.9), 4),
        recall=recall,
        digest=hashlib.sha256("\0".join([made_for, name, *texts]).encode("utf-8", "replace")).hexdigest()[:12],
        weights=np.asarray(weights, dtype=np.float32),
        bias=np.asarray(-statistics.mean @ weights - (every**2).sum(1) / 2, dtype=np.float32),
        classes=len(statistics.centres),
        offset=offset,
    )


def _centres(found: Floats) -> Floats:
    mean = found.mean(0)
    chosen = found[:: -(-len(found) // _CENTRES)]
    return np.asarray((1 - _APART) * mean + _APART * chosen, dtype=np.float32)


def _offset(statistics: Statistics, new: Floats) -> tuple[float, Floats]:
    """What to take off the softened log-odds, and by how much they exceed what wins before that, by prompt."""
    margins = _SOFTENING * _odds(statistics.reference, statistics.centres, new) - statistics.margins
    return float(np.quantile(margins, 1 - CHANGED)), margins


def _odds(points: Floats, known: Floats, new: Floats) -> Floats:
    def evidence(centres: Floats) -> Floats:
        scores = points @ centres.T - (centres**2).sum(1) / 2
        top = scores.max(1)
        return np.asarray(top + np.log(np.exp(scores - top[:, None]).sum(1)))

    return np.asarray(evidence(new) - np.log(len(new)) - evidence(known), dtype=np.float32)


def _recall(found: Floats, statistics: Statistics) -> float:
    """Leaves out every fourth example in turn; one counts when its odds would win against a class that is sure."""
    hits = 0
    for fold in range(4):
        out = np.arange(len(found)) % 4 == fold
        new = _centres(found[~out])
        offset, _ = _offset(statistics, new)
        hits += int((_SOFTENING * _odds(found[out], statistics.centres, new) > offset).sum())
    return hits / len(found)


def _summed(logits: Sequence[float]) -> float:
    """The logarithm of the sum of the powers."""
    top = max(logits)
    return top + log(sum([exp(logit - top) for logit in logits]))
