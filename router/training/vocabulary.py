"""Stage 3, vocabulary: the student's tokens and a first vector for each.

Tokens are the encoder's own (ASCII words and pieces, single letters and signs of other scripts), and whole words that
it would have to split: those of the corpus that appear in several sources, and those of a plain word list
(``--words``). Each token's vector is the encoder's mean output for it alone, reduced by principal components and
scaled by rank (Model2Vec, Tulkens and van Dongen 2024).

    python -m router.training.vocabulary run/corpus.jsonl run/vocabulary --encoder minilm
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.tokenization import FOREIGN, LINE, PAD, SPECIAL, SYMBOL, UNKNOWN
from router.training.collect import Prompt, load_corpus

_EXAMPLES = {
    PAD: "", UNKNOWN: "[UNK]", LINE: ".", FOREIGN: "[UNK]", SYMBOL: "*", "[0]": "0", "[1]": "1", "[9]": "7",
    "[99]": "25", "[999]": "250", "[YEAR]": "2015", "[9999]": "3500", "[99999]": "25000", "[LONG]": "1234567",
}  # fmt: skip


def build(rows: Sequence[Prompt], encoder: Iterable[str], words: Iterable[str], limit: int) -> list[str]:
    """The vocabulary, at most ``limit`` tokens: special, the encoder's, the corpus's, the word list's."""
    tokens = dict.fromkeys(SPECIAL)
    tokens.update(dict.fromkeys(token for token in encoder if _wanted(token)))
    for word in chain_words(rows, words):
        if len(tokens) >= limit:
            break
        tokens.setdefault(word)
    return list(tokens)


def chain_words(rows: Sequence[Prompt], words: Iterable[str]) -> list[str]:
    """Corpus words in three or more sources by how many, then the list in its order."""
    counts: Counter[str] = Counter()
    sources: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for word in set(row.text.lower().replace("_", " ").split()):
            word = word.strip(".,;:!?()[]{}'\"`")
            if word.isascii() and word.isalpha() and 3 <= len(word) <= 24:
                counts[word] += 1
                sources[word].add(row.source)
    common = [word for word, _ in counts.most_common() if len(sources[word]) >= 3]
    return common + [word for word in words if word.isascii() and word.isalpha() and len(word) <= 24]


def vectors(tokens: Sequence[str], encoder: str, dimensions: int) -> NDArray[np.float32]:
    """First vectors of the tokens, shape (tokens, dimensions), rows of about unit length."""
    import torch

    from router.training.teacher import Teacher

    model = Teacher.load(encoder, ("none",)).eval()
    texts = [_EXAMPLES.get(token, token) for token in tokens]
    ids = [_ids(model.tokenizer, text) for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    result = np.zeros((len(ids), model.encoder.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for i in range(0, len(order), 512):
            chosen = order[i : i + 512]
            width = max(len(ids[j]) for j in chosen)
            batch = torch.zeros(len(chosen), width, dtype=torch.long)
            mask = torch.zeros(len(chosen), width)
            for k, j in enumerate(chosen):
                batch[k, : len(ids[j])] = torch.tensor(ids[j])
                mask[k, : len(ids[j])] = 1.0
            hidden = model.encoder(input_ids=batch, attention_mask=mask.long()).last_hidden_state
            result[chosen] = ((hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    reduced = _principal(result, dimensions)
    reduced *= np.log1p(np.arange(len(tokens)))[:, None] / np.log1p(len(tokens))
    reduced[0] = 0.0
    return np.asarray(reduced / np.linalg.norm(reduced, axis=1).mean(), dtype=np.float32)


def make(corpus: Path, out: Path, encoder: str, words: Path | None, limit: int, dimensions: int) -> None:
    """Write ``vocabulary.txt`` and ``vectors.npy`` into ``out``."""
    from router.training.teacher import Teacher

    known = Teacher.load(encoder, ("none",)).tokenizer.get_vocab()
    own = sorted(known, key=lambda token: known[token])
    listed = words.read_text(encoding="utf-8").split() if words else []
    tokens = build(load_corpus(corpus), own, listed, limit)
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    np.save(out / "vectors.npy", vectors(tokens, encoder, dimensions))


def _wanted(token: str) -> bool:
    plain = token.removeprefix("##")
    if plain.isascii():
        return plain.isalpha() or (len(plain) == 1 and not plain.isdigit() and token == plain)
    if len(plain) != 1 or token != plain:
        return False
    name = unicodedata.name(plain, "")
    return "GREEK" in name or unicodedata.category(plain)[0] in "SP"


def _ids(tokenizer: object, text: str) -> list[int]:
    """Ids of one token on its own; a continuation keeps its ``##``."""
    convert = tokenizer.convert_tokens_to_ids  # type: ignore[attr-defined]
    if text.startswith("##"):
        return [convert("[CLS]"), convert(text), convert("[SEP]")]
    ids: list[int] = tokenizer(text)["input_ids"]  # type: ignore[operator]
    return ids


def _principal(data: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    centred = data - data.mean(0)
    _, directions = np.linalg.eigh(np.cov(centred.T))
    return np.asarray(centred @ directions[:, ::-1][:, :dimensions], dtype=np.float32)


if __name__ == "__main__":
    import typer

    def main(
        corpus: Path,
        out: Path,
        encoder: str = "minilm",
        words: Path | None = None,
        limit: int = 36_000,
        dimensions: int = 256,
    ) -> None:
        make(corpus, out, encoder, words, limit, dimensions)

    typer.run(main)
