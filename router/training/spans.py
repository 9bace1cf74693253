"""Stage 2b, spans: sentences cut from the corpus and from unlabelled texts, for the teacher to label.

A text on its own, out of the prompt that it stood in, is new to teacher and student alike: there the student learns
what the teacher makes of text that nobody labelled.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.training.balance import REJECTED, weights
from router.training.collect import Prompt

FORM = "span"
"""The ``form`` of such rows: their label is the teacher's alone."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def cut(rows: Sequence[Prompt], unlabelled: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """``count`` different spans at most, half of them from each when both have enough."""
    rng = random.Random(seed)
    long = [row for row in rows if row.domain not in REJECTED and len(row.text.split()) > 25]
    known = {row.text for row in rows}
    spans: dict[str, None] = {}
    if long:
        picks = np.random.default_rng(seed).choice(len(long), size=2 * count, p=weights(long))
        for i in picks:
            if len(spans) >= count - min(len(unlabelled), count // 2):
                break
            spans.update(dict.fromkeys(_span(long[i].text, rng)))
    for text in rng.sample(list(unlabelled), len(unlabelled)):
        if len(spans) >= count:
            break
        spans.update(dict.fromkeys(_span(text, rng)))
    return [span for span in spans if span not in known]


def labelled(texts: Sequence[str], soft: NDArray[np.float32], names: Sequence[str]) -> list[Prompt]:
    """Rows of the spans under the teacher's best label; ``soft`` of shape (texts, names)."""
    best = [names[i] for i in soft.argmax(1)]
    return [
        Prompt(text, name, f"spans:{name}", "as the rows they were cut from", FORM)
        for text, name in zip(texts, best, strict=True)
    ]


def _span(text: str, rng: random.Random) -> list[str]:
    """One to three sentences of ``text``, at most 50 words; none when it has but one."""
    parts = [part for part in _SENTENCE.split(text) if len(part.split()) > 2]
    if len(parts) < 2:
        return []
    start = rng.randrange(len(parts))
    words = " ".join(parts[start : start + rng.choice((1, 1, 2, 3))]).split()
    first = rng.randrange(len(words) - 50) if len(words) > 60 else 0
    return [" ".join(words[first : first + 60])] if len(words) >= 4 else []
