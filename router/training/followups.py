"""Turns that mean something only after earlier ones: thanks, assents, corrections, "and the year before?".

They train the output that tells a conversation's fold to keep its domain.
"""

from __future__ import annotations

import random
from pathlib import Path

from router.training.collect import Prompt

FOLLOWUP = "followup"
"""Pseudo-domain of such turns."""

_PHRASES = Path(__file__).with_name("followups.txt")

_SLOTS = (
    "and {}?", "what about {}?", "how about {}", "and for {}?", "same for {}", "ok, now {}", "and if it is {} instead?",
    "no, {}", "I meant {}", "does that also hold for {}?", "can you redo it with {}?", "then {} please", "{}",
    "what changes with {}?", "so {}?", "just {}", "why {}?",
)  # fmt: skip
_FILL = (
    "the second one", "the other two", "last year", "2019", "the year after", "next week",
    "Tuesday", "the third", "it", "that", "the previous one", "the rest",
    "both of them", "a bigger one", "half of it", "twice as much", "ten", "the first part",
    "the last step", "the same thing", "those", "the one above", "the next", "a smaller number",
    "the opposite", "none", "her", "him", "my sister", "the kids",
    "a friend", "two people", "the weekend", "the morning", "in Spain", "here",
    "later",
)  # fmt: skip
_EDGES = ("", "", "", "", "ok ", "and ", "hmm, ", "sorry, ", "thanks. ", "great. ", "so ", "but ", "please ", "oh, ")


def followups(count: int, seed: int = 0) -> list[Prompt]:
    """``count`` different turns of the kind, each written phrase among them first."""
    rng = random.Random(seed)
    phrases = _PHRASES.read_text(encoding="utf-8").splitlines()
    texts = dict.fromkeys(phrases)
    while len(texts) < count:
        filled = rng.choice(_SLOTS).format(rng.choice(_FILL))
        text = filled if rng.random() < 0.5 else rng.choice(phrases)
        texts.setdefault(rng.choice(_EDGES) + text)
    kept = list(texts)[:count]
    return [Prompt(text, FOLLOWUP, "own:followups", "Apache-2.0 (this project)", "followup") for text in kept]
