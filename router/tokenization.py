"""Text to token ids: the same code for training and for serving.

A text is cut to its beginning and end before anything else, lower-cased, stripped of accents, and split into words,
punctuation marks and line ends by one regular expression. A word is looked up in a dictionary from word to token
ids that starts with the whole-word vocabulary; what it lacks is corrected if one slip away from a word it has, else
split by greedy longest match (WordPiece, Wu et al. 2016), once, and remembered within a bound. Numbers become their
shape; words in other scripts become one token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.errors import RouterError
from router.spelling import Spelling

HEAD, TAIL = 640, 480
"""Characters kept of a long text's beginning and of its end (a question often follows what was pasted)."""

PAD, UNKNOWN, LINE, FOREIGN, SYMBOL = "[PAD]", "[UNK]", "[LINE]", "[FOREIGN]", "[SYMBOL]"
NUMBERS = ("[0]", "[1]", "[9]", "[99]", "[999]", "[YEAR]", "[9999]", "[99999]", "[LONG]")
SPECIAL = (PAD, UNKNOWN, LINE, FOREIGN, SYMBOL, *NUMBERS)

_SPLIT = re.compile(r"[a-z]+|[0-9]+|[^\x00-\x7f]+|[^a-z0-9 \t\r\v\f]")
_LONGEST_WORD = 40
_LONGEST_PIECE = 24


def window(text: str) -> str:
    """The beginning and the end of ``text``, at most ``HEAD + TAIL + 1`` characters."""
    if len(text) <= HEAD + TAIL:
        return text
    return f"{text[:HEAD]}\n{text[-TAIL:]}"


class Tokenizer:
    """Token ids of a text, int64, at least one; safe to share between threads.

    ``vocabulary`` lists the tokens by id; ``##`` marks the continuation of a word. ``remember`` bounds how many
    words outside the vocabulary are kept with their ids.
    """

    def __init__(self, vocabulary: Iterable[str], remember: int = 50_000) -> None:
        self.vocabulary = tuple(vocabulary)
        if self.vocabulary[: len(SPECIAL)] != SPECIAL:
            raise RouterError(f"the vocabulary must begin with the special tokens {', '.join(SPECIAL)}")
        self._words = _Words(self.vocabulary, remember)
        self._fallback = np.array([SPECIAL.index(UNKNOWN)], dtype=np.int64)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a vocabulary file: one token a line."""
        return cls(path.read_text(encoding="utf-8").split("\n")[:-1])

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids of the tokens of ``window(text)``, shape (tokens,)."""
        text = window(text).lower()
        if not text.isascii():
            text = _plain(text)
        found = map(self._words.__getitem__, _SPLIT.findall(text))
        ids = np.array(list(chain.from_iterable(found)), dtype=np.int64)  # faster than np.fromiter
        return ids if ids.size else self._fallback


class _Words(dict[str, tuple[int, ...]]):
    """Word -> token ids; a missing word is split once and kept, and the lot dropped when it grows past the bound."""

    def __init__(self, vocabulary: tuple[str, ...], remember: int) -> None:
        super().__init__((token, (i,)) for i, token in enumerate(vocabulary))
        self._vocabulary = vocabulary
        self._limit = len(self) + remember
        known = ((token, i) for i, token in enumerate(vocabulary) if token.isascii() and token.isalpha())
        self._spelling = Spelling(known)
        self._added: list[str] = []

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._split(word))
        if len(self) >= self._limit:
            added, self._added = self._added, []
            for old in added:
                self.pop(old, None)
        if len(word) <= _LONGEST_WORD:
            self[word] = ids
            self._added.append(word)
        return ids

    def _split(self, word: str) -> list[int]:
        first = word[0]
        if first == "\n":
            return [SPECIAL.index(LINE)]
        if not word.isascii():
            return [SPECIAL.index(FOREIGN if first.isalpha() else SYMBOL)]
        if first.isdigit():
            return [SPECIAL.index(_shape(word))]
        if not first.isalpha():
            return [SPECIAL.index(SYMBOL)]
        singular = self._token(word[:-1]) if word.endswith("s") else None
        corrected = singular if singular is not None else self._spelling.correct(word)
        if corrected is not None:
            return [corrected]
        return _longest_match(word[:_LONGEST_WORD], self._token, SPECIAL.index(UNKNOWN))

    def _token(self, piece: str) -> int | None:
        """The id of a token of the vocabulary, not of a word that was split or corrected to it."""
        ids = self.get(piece)
        return ids[0] if ids is not None and self._vocabulary[ids[0]] == piece else None


def _longest_match(word: str, find: Callable[[str], int | None], unknown: int) -> list[int]:
    ids = []
    start, mark = 0, ""
    while start < len(word):
        for end in range(min(len(word), start + _LONGEST_PIECE), start, -1):
            piece = find(mark + word[start:end])
            if piece is not None:
                ids.append(piece)
                start, mark = end, "##"
                break
        else:
            return [unknown]
    return ids


def _shape(number: str) -> str:
    if number in ("0", "1"):
        return f"[{number}]"
    if len(number) == 4 and number[:2] in ("18", "19", "20"):
        return "[YEAR]"
    return f"[{'9' * len(number)}]" if len(number) <= 5 else "[LONG]"


def _plain(text: str) -> str:
    """Accents off, lone surrogates and control characters out, compatibility forms folded."""
    return unicodedata.normalize("NFKD", text).lower().translate(_KEPT)


class _Characters(dict[int, int | None]):
    """For `str.translate`: what is neither mark, surrogate nor control character stays; found once, remembered."""

    def __missing__(self, code: int) -> int | None:
        out = unicodedata.category(chr(code)) in ("Mn", "Cs", "Cc") and code not in (9, 10)
        self[code] = None if out else code
        return self[code]


_KEPT = _Characters()
