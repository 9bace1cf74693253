"""What TinyAda says about a prompt."""

from __future__ import annotations

from dataclasses import dataclass

GENERAL = "general"
"""The domain that no adapter serves: the base model answers."""


@dataclass(frozen=True, slots=True)
class Decision:
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
