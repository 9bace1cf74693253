"""Text to token ids: the same code for training and for serving.

A text is cut to its beginning and end before anything else, lower-cased, and split at spaces and line ends. Each chunk
between them is looked up in a dictionary from text to token ids that starts with the vocabulary. One that it lacks is
stripped of accents and split into words and punctuation marks by a regular expression; a word that it lacks is
corrected if one slip away from one it has, else split by greedy longest match (WordPiece, Wu et al. 2016). This is done
once, and remembered within a bound. Numbers become their shape; words in other scripts become one token.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

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
    chunks and words outside the vocabulary are kept with their ids.
    """

    def __init__(self, vocabulary: Iterable[str], remember: int = 30_000) -> None:
        self.vocabulary = tuple(vocabulary)
        if self.vocabulary[: len(SPECIAL)] != SPECIAL:
            raise RouterError(f"the vocabulary must begin with the special tokens {', '.join(SPECIAL)}")
        self._ids_of = _Chunks(self.vocabulary, remember).__getitem__

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a vocabulary file: one token a line."""
        return cls(path.read_text(encoding="utf-8").split("\n")[:-1])

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids of the tokens of ``window(text)``, shape (tokens,), read-only."""
        chunks = window(text).lower().replace("\n", " \n ").split(" ")
        # Joining packed ids is many times faster than making an array of a list of numbers.
        return np.frombuffer(b"".join(map(self._ids_of, chunks)) or _UNKNOWN, np.int64)


def _packed(number: int) -> bytes:
    return number.to_bytes(8, sys.byteorder)


_UNKNOWN = _packed(SPECIAL.index(UNKNOWN))


class _Chunks(dict[str, bytes]):
    """Chunk or word -> packed token ids; a missing one is split once and kept; at the bound all kept are dropped."""

    def __init__(self, vocabulary: tuple[str, ...], remember: int) -> None:
        super().__init__((token, _packed(i)) for i, token in enumerate(vocabulary) if _is_whole(token))
        self[""] = b""
        self._tails = {token[2:]: i for i, token in enumerate(vocabulary) if token.startswith("##")}
        self._spelling = Spelling(
            (token, i) for i, token in enumerate(vocabulary) if token.isascii() and token.isalpha()
        )
        self._vocabulary, self._remember = vocabulary, remember
        self._added: list[str] = []

    def __missing__(self, chunk: str) -> bytes:
        pieces = _SPLIT.findall(chunk if chunk.isascii() else _plain(chunk))
        ids = self._split(chunk) if pieces == [chunk] else b"".join(map(self.__getitem__, pieces))
        if len(self._added) >= self._remember:
            added, self._added = self._added, []
            for old in added:
                self.pop(old, None)
        if len(chunk) <= _LONGEST_WORD:
            self[chunk] = ids
            self._added.append(chunk)
        return ids

    def _split(self, word: str) -> bytes:
        first = word[0]
        if first == "\n":
            return _packed(SPECIAL.index(LINE))
        if not word.isascii():
            return _packed(SPECIAL.index(FOREIGN if first.isalpha() else SYMBOL))
        if first.isdigit():
            return _packed(SPECIAL.index(_shape(word)))
        if not first.isalpha():
            return _packed(SPECIAL.index(SYMBOL))
        singular = self._whole(word[:-1]) if word.endswith("s") else None
        corrected = self._spelling.correct(word) if singular is None else None
        return singular or (_packed(corrected) if corrected is not None else self._longest_match(word))

    def _whole(self, word: str) -> bytes | None:
        """The id of a word of the vocabulary, not of one that was split or corrected to it."""
        ids = self.get(word)
        return ids if ids and self._vocabulary[int.from_bytes(ids[:8], sys.byteorder)] == word else None

    def _longest_match(self, word: str) -> bytes:
        word = word[:_LONGEST_WORD]
        end, ids = _longest(word, 0, self._whole)
        while ids and end < len(word):
            end, tail = _longest(word, end, self._tails.get)
            ids = ids + _packed(tail) if tail is not None else b""
        return ids or _UNKNOWN


T = TypeVar("T")


def _longest(word: str, start: int, find: Callable[[str], T | None]) -> tuple[int, T | None]:
    """Where the longest known piece from ``start`` ends, and what is found for it."""
    for end in range(min(len(word), start + _LONGEST_PIECE), start, -1):
        found = find(word[start:end])
        if found is not None:
            return end, found
    return start, None


def _is_whole(token: str) -> bool:
    """Whether text can hold the token as one piece: no special one, no continuation, nothing that unfolds."""
    return _SPLIT.findall(token if token.isascii() else _plain(token)) == [token]


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
