"""Stage 8, statistics: what a TinyAda must keep of its classes so that a domain can be added from a few examples.

    python -m router.training.statistics run/corpus.jsonl router/weights

Adds ``statistics.npz`` to the directory of weights: means and covariance of the features by class, and the projected
features of a sample of training prompts, from which no text can be read. See `router.added`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from router.added import Statistics
from router.manifest import STATISTICS, read_manifest, write_manifest
from router.model import TinyAda
from router.training.balance import REJECTED, weights
from router.training.collect import Prompt, load_corpus

SAMPLE, KEPT, WIDTH, RIDGE = 8_000, 1_000, 224, 0.3
"""Prompts measured, prompts kept as a reference, dimensions, and the covariance's ridge in mean variances."""


def measure(directory: Path, rows: Sequence[Prompt], seed: int = 0) -> Statistics:
    """Write the statistics of the TinyAda in ``directory``, trained on ``rows``, into it."""
    ada, manifest = TinyAda.load(directory), read_manifest(directory)
    labels = manifest.labels
    rows = [row for row in rows if row.domain in labels]
    rows = [row for row in rows if not row.form] or rows  # prompts written on purpose are no fair sample
    random = np.random.default_rng(seed)
    picks = random.choice(len(rows), size=SAMPLE, p=weights(rows))
    pairs = [ada.features(rows[i].text) for i in picks]
    features, logits = (np.stack([pair[part] for pair in pairs]).astype(np.float64) for part in (0, 1))
    classes = np.array([labels.index(rows[i].domain) for i in picks])
    present = sorted(set(classes.tolist()))
    means = np.stack([features[classes == label].mean(0) for label in present])
    within = features - means[[present.index(label) for label in classes.tolist()]]
    variances, directions = np.linalg.eigh(within.T @ within / len(within))
    order = np.argsort(-variances)[: min(WIDTH, len(variances))]
    basis = directions[:, order] / np.sqrt(variances[order] + RIDGE * variances.mean())
    mean = features.mean(0)
    domains = [i for i, name in enumerate(labels) if name not in REJECTED]
    top = logits.max(1, keepdims=True)
    margins = logits[:, domains].max(1) - (top[:, 0] + np.log(np.exp(logits - top).sum(1)))
    kept = np.nonzero(np.isin(classes, domains))[0][:KEPT]
    found = Statistics(
        *(
            np.asarray(part, dtype=np.float32)
            for part in (mean, basis, (means - mean) @ basis, (features[kept] - mean) @ basis, margins[kept])
        )
    )
    found.write(directory / STATISTICS)
    write_manifest(directory, manifest)
    return found


if __name__ == "__main__":
    import typer

    def main(corpus: Path, weights: Path) -> None:
        measure(weights, load_corpus(corpus))
        size = (weights / STATISTICS).stat().st_size
        print(f"{weights / STATISTICS}: {size} bytes; all of it {sum(p.stat().st_size for p in weights.iterdir())}")

    typer.run(main)
