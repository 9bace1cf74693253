"""Students that know all domains but one, for measuring how a domain is added (`added_domain.py`).

    python -m router.training.left_out a.jsonl b.jsonl run/ --exclude dev.jsonl

Each is trained on the corpus without the rows of its domain, on tokens from that corpus alone, without a teacher (the
teacher of the shipped student knows every domain) and more briefly: 4 epochs of 24,000 draws, not 8 of 40,000. Writes
``run/DOMAIN/weights``, a directory as `router.TinyAda.load` takes it, with the shipped policy less that domain; done
ones are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from router.manifest import SHIPPED, Manifest, Policy, read_manifest
from router.tokenization import Tokenizer
from router.training import vocabulary
from router.training.balance import REJECTED, labels
from router.training.collect import OUTLIER, Prompt
from router.training.distil import Schedule, distil
from router.training.export import export
from router.training.pipeline import WORDS, corpus
from router.training.statistics import measure
from router.training.student import Design
from router.training.teacher import Teacher

TOKENS = 36_000


def train_without(
    domain: str, rows: Sequence[Prompt], every: Sequence[str], vectors: NDArray[np.float32], out: Path, epochs: int
) -> None:
    """Train the student without ``domain``, and write it to ``out``. ``vectors`` has a row for each of ``every``."""
    known = [row for row in rows if row.domain != domain]
    encoder, words = _encoder_tokens(), WORDS.read_text(encoding="utf-8").split()
    tokens = vocabulary.build(known, encoder, words, TOKENS)
    index = {token: i for i, token in enumerate(every)}
    out.parent.mkdir(parents=True, exist_ok=True)
    listed = out.parent / "vocabulary.txt"
    listed.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    names = labels(known)
    design = Design(hidden=128, pair_buckets=32_768, pair_width=24)
    schedule = Schedule(epochs=epochs, draws=24_000)
    first = vectors[[index[token] for token in tokens]]
    student = distil(known, Tokenizer.load(listed), first, design, schedule, names=names)
    manifest = Manifest(
        labels=names,
        rejected=tuple(name for name in names if name in REJECTED),
        policy=_policy(domain),
        files={},
        smoke=tuple(pair for pair in read_manifest(SHIPPED).smoke if pair[1] != domain),
        pair_buckets=design.pair_buckets,
    )
    export(student, listed, manifest, out, [row.text for row in known[:500]])
    measure(out, known)


def _policy(domain: str) -> Policy:
    policy = read_manifest(SHIPPED).policy
    thresholds, mentions = (
        {name: limit for name, limit in limits.items() if name != domain}
        for limits in (policy.thresholds, policy.mentions)
    )
    return replace(policy, thresholds=thresholds, mentions=mentions)


def _encoder_tokens() -> list[str]:
    known = Teacher.load("minilm", ("none",)).tokenizer.get_vocab()
    return sorted(known, key=lambda token: known[token])


def _vectors(rows: Sequence[Prompt], work: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Every token that some student could have, and its first vector; made once."""
    tokens = vocabulary.build(rows, _encoder_tokens(), WORDS.read_text(encoding="utf-8").split(), 1_000_000)
    stored = work / "vectors.npy"
    if not stored.is_file():
        np.save(stored, vocabulary.vectors(tokens, "minilm", 256))
    return tokens, np.load(stored)[:, :160].copy()


if __name__ == "__main__":
    import typer

    def main(data: list[Path], work: Path, exclude: list[Path] | None = None, epochs: int = 4, only: str = "") -> None:
        torch.set_num_threads(1)
        rows = corpus(data, exclude or [], work, True)
        every, vectors = _vectors(rows, work)
        domains = sorted({row.domain for row in rows} - {*REJECTED, OUTLIER, "general"})
        for domain in only.split(",") if only else domains:
            out = work / domain / "weights"
            if not (out / "manifest.json").is_file():
                print(f"without {domain}", flush=True)
                train_without(domain, rows, every, vectors, out, epochs)

    typer.run(main)
