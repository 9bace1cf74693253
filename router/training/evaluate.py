"""Stage 7, evaluate: the figures of a TinyAda on labelled prompts, as served (the ONNX model, the policy).

python -m router.training.evaluate dev.jsonl --weights router/weights --out figures.json
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from router.decision import Decision
from router.model import TinyAda
from router.training.augment import typos, without_punctuation
from router.training.balance import REJECTED
from router.training.collect import Prompt, read

BINS = 10


def evaluate(data: list[Path], weights: Path | None = None) -> dict[str, Any]:
    """All figures on the rows of ``data``; a prediction in a row's ``also`` counts as right."""
    ada = TinyAda.load(weights)
    rows = [row for item in data for row in read(item) if row.domain not in REJECTED]
    decisions = [ada.route(row.text) for row in rows]
    clean = figures(rows, decisions)
    rng = random.Random(0)
    noises: dict[str, Callable[[str], str]] = {
        "typos": lambda text: typos(text, rng),
        "capitals": str.upper,
        "no_punctuation": without_punctuation,
    }
    robust = {}
    for name, noise in noises.items():
        score = figures(rows, [ada.route(noise(row.text)) for row in rows])["macro_f1"]
        robust[name] = {"macro_f1": score, "loss": round(clean["macro_f1"] - score, 4)}
    times = sorted(decision.microseconds for decision in decisions)
    return {
        **clean,
        "robustness": robust,
        "microseconds": {"p50": times[len(times) // 2], "p99": times[int(len(times) * 0.99)]},
        "digest": ada.digest,
    }


def conversations(data: Path, weights: Path | None = None) -> dict[str, dict[str, int]]:
    """By kind of conversation, how many there are and how many get the right domain for their last turn.

    Rows of the JSONL file have ``messages``, ``domain`` and ``kind``, and may have ``also``.
    """
    ada = TinyAda.load(weights)
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"conversations": 0, "right": 0})
    for line in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found = ada.route_conversation(row["messages"]).domain
        counts[row["kind"]]["conversations"] += 1
        counts[row["kind"]]["right"] += found == row["domain"] or found in row.get("also", ())
    return dict(counts)


def figures(rows: Sequence[Prompt], decisions: Sequence[Decision]) -> dict[str, Any]:
    """Accuracy, macro-F1, calibration and what serving would do, over all rows and by domain and source."""
    right = np.array([d.domain == r.domain or d.domain in r.also for r, d in zip(rows, decisions, strict=True)])
    served = np.array([not d.abstained for d in decisions])
    adapter = np.array([not d.abstained and d.domain != "general" for d in decisions])
    confidence = np.array([d.confidence for d in decisions])
    truth = [r.domain for r in rows]
    found = [t if ok else d.domain for t, ok, d in zip(truth, right, decisions, strict=True)]
    names = sorted(set(truth) | set(found))
    by_domain = {name: _f1(truth, found, name) for name in names}
    order = np.argsort(-confidence)
    most = order[: max(1, round(0.85 * len(order)))]
    confusion = [[sum(t == a and f == b for t, f in zip(truth, found, strict=True)) for b in names] for a in names]
    sources: dict[str, list[bool]] = defaultdict(list)
    for row, ok in zip(rows, right, strict=True):
        sources[f"{row.domain}/{row.source}"].append(bool(ok))
    curve = [
        (round(share, 2), round(float(right[order[: max(1, round(share * len(order)))]].mean()), 4))
        for share in np.arange(0.05, 1.001, 0.05)
    ]
    return {
        "rows": len(rows),
        "macro_f1": round(float(np.mean([f["f1"] for f in by_domain.values()])), 4),
        "accuracy": round(float(right.mean()), 4),
        "coverage": round(float(served.mean()), 4),
        "served_accuracy": round(float(right[served].mean()), 4) if served.any() else None,
        "accuracy_at_85": round(float(right[most].mean()), 4),
        "wrong_adapter": round(float((adapter & ~right).mean()), 4),
        "ece": calibration_error(confidence, right),
        "by_domain": by_domain,
        "by_source": {
            name: {"rows": len(ok), "accuracy": round(sum(ok) / len(ok), 4)} for name, ok in sorted(sources.items())
        },
        "confusion": {"domains": names, "counts": confusion},
        "risk_coverage": curve,
        "reliability": _bins(confidence, right),
    }


def calibration_error(confidence: Any, right: Any) -> float:
    """Expected calibration error over ten bins of equal width (Naeini et al. 2015)."""
    total = sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in _bins(confidence, right))
    return round(float(total / len(confidence)), 4)


def _bins(confidence: Any, right: Any) -> list[dict[str, Any]]:
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "rows": int((places == b).sum()),
            "confidence": round(float(confidence[places == b].mean()), 4),
            "accuracy": round(float(right[places == b].mean()), 4),
        }
        for b in range(BINS)
        if (places == b).any()
    ]


def _f1(truth: Sequence[str], found: Sequence[str], name: str) -> dict[str, float]:
    both = sum(t == f == name for t, f in zip(truth, found, strict=True))
    said, were = found.count(name) if isinstance(found, list) else 0, list(truth).count(name)
    return {
        "rows": were,
        "precision": round(both / said, 4) if said else 0.0,
        "recall": round(both / were, 4) if were else 0.0,
        "f1": round(2 * both / (said + were), 4) if said + were else 0.0,
    }


if __name__ == "__main__":
    import typer

    def main(data: list[Path], weights: Path | None = None, out: Path | None = None) -> None:
        found = evaluate(data, weights)
        print(json.dumps(found, indent=1))
        if out:
            out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    typer.run(main)
