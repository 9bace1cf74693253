"""What TinyAda says about a prompt."""

from __future__ import annotations

from typing import NamedTuple

GENERAL = "general"
"""The domain that no adapter serves: the base model answers."""


class Decision(NamedTuple):
    """One decision.

    ``domain``: the most probable domain, also when abstained. ``confidence``: calibrated probability that serving
    it is right. ``scores``: probability by domain, summing to 1. ``abstained``: too unsure for an adapter, the base
    should answer. ``reason``: ``resolved``, ``abstained`` or ``sticky`` (kept from earlier turns). ``domains``: every
    domain above its own threshold, best first. ``microseconds``: what deciding took. ``router``: the digest of the
    TinyAda that decided.
    """

    domain: str
    confidence: float
    scores: dict[str, float]
    abstained: bool
    reason: str
    domains: tuple[str, ...]
    microseconds: float
    router: str = ""
