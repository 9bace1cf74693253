"""Words one slip away from a known one: a lost, an extra, a wrong letter, or two swapped.

Symmetric deletion (Garbe's SymSpell): two words one slip apart share a form with at most one letter taken out. The
forms of all known words are kept as sorted 32-bit hashes, so that a look-up is one binary search.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from zlib import crc32

import numpy as np

SHORTEST, LONGEST = 4, 14
"""Lengths of the words that are corrected."""


class Spelling:
    """Built from (word, id) pairs, common words with the lower ids; `correct` prefers these."""

    def __init__(self, words: Iterable[tuple[str, int]]) -> None:
        hashes, ids = array("I"), array("I")  # a list of as many integers would take ten times the memory
        for word, number in words:
            if SHORTEST <= len(word) <= LONGEST + 1:
                forms = _forms(word)
                hashes.extend(forms)
                ids.extend([number] * len(forms))
        order = np.lexsort((ids, hashes))
        small = np.uint16 if not ids or max(ids) < 2**16 else np.uint32
        self._hashes = np.array(hashes, dtype=np.uint32)[order]
        self._ids = np.array(ids, dtype=small)[order]
        # Equal hashes: the search lands on the first, which has the lowest id.

    def correct(self, word: str) -> int | None:
        """The id of the most common known word at most one slip away, if there is one."""
        if not SHORTEST <= len(word) <= LONGEST or not len(self._hashes):
            return None
        forms = np.array(_forms(word), dtype=np.uint32)
        places = np.minimum(np.searchsorted(self._hashes, forms), len(self._hashes) - 1)
        hits = self._ids[places[self._hashes[places] == forms]]
        return int(hits.min()) if hits.size else None


def _forms(word: str) -> list[int]:
    """Hashes of the word and of it with one letter out; the first letter stays, slips are rare there."""
    text = word.encode()
    return [crc32(text), *{crc32(text[:i] + text[i + 1 :]) for i in range(1, len(text))}]
