"""The model card: figures of the shipped TinyAda, their pictures, and the commands that give them.

    python -m router.training.card dev.jsonl

Writes ``router/CARD.md`` and the PNG files in ``router/figures/``, and keeps the figures in the weights' manifest,
where the gateway's console finds them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from router.manifest import SHIPPED, read_manifest, write_manifest
from router.training.bench import BENCH, section
from router.training.evaluate import conversations, evaluate

ROUTER = Path(__file__).parents[1]
FIGURES = ROUTER / "figures"
CONVERSATIONS = Path(__file__).parent / "prompts" / "conversations.jsonl"

_BARS = (
    ("macro-F1, 8 domains", "macro_f1", "0.90"),
    ("accuracy", "accuracy", ""),
    ("coverage at the shipped thresholds", "coverage", "0.85"),
    ("accuracy where it does not abstain", "served_accuracy", "0.95"),
    ("accuracy on the surest 85 %", "accuracy_at_85", "0.95"),
    ("wrong adapter, of all prompts", "wrong_adapter", "0.03"),
    ("expected calibration error", "ece", "0.03"),
)
_ERRORS = ("wrong_adapter", "ece")


def card(data: list[Path], bench: Path | None = None, weights: Path | None = None) -> str:
    """Measure, draw, and return the card's text."""
    found = evaluate(data, weights)
    folded = conversations(CONVERSATIONS, weights)
    manifest = read_manifest(weights or SHIPPED)
    stored = json.loads(bench.read_text(encoding="utf-8")) if bench is not None and bench.is_file() else None
    names = " ".join(path.name for path in data)
    evaluation = kept(found, folded, names, stored)
    write_manifest(weights or SHIPPED, replace(manifest, trained={**manifest.trained, "evaluation": evaluation}))
    FIGURES.mkdir(exist_ok=True)
    draw_confusion(found, FIGURES / "confusion.png")
    draw_reliability(found, FIGURES / "reliability.png")
    draw_risk(found, FIGURES / "risk-coverage.png")
    lines = [
        f"# TinyAda {manifest.digest}",
        "",
        "Reads a prompt on the CPU and picks its domain: " + ", ".join(manifest.domains) + " (`general` is the base).",
        "A bag of static token vectors pooled by learned queries, distilled from a fine-tuned all-MiniLM-L6-v2.",
        "It reads English; other languages and meaningless text go to the base. It says nothing of whether a prompt",
        "is safe to answer. How the designs compare: [results](training/results.md).",
        "",
        f"## On sources not trained on (`{names}`, {found['rows']} prompts)",
        "`zephyra router evaluate --data FILE --json`",
        "",
        "| figure | value | bar |",
        "|---|---|---|",
        *(f"| {figure['name']} | {figure['value']} | {figure['bar']} |" for figure in evaluation["figures"]),
        "",
        "| domain | prompts | precision | recall | F1 |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {f['rows']} | {f['precision']} | {f['recall']} | {f['f1']} |"
            for name, f in found["by_domain"].items()
        ),
        "",
        "| source | prompts | accuracy |",
        "|---|---|---|",
        *(f"| {name} | {s['rows']} | {s['accuracy']} |" for name, s in found["by_source"].items()),
        "",
        "![confusion](figures/confusion.png) ![reliability](figures/reliability.png)",
        "![risk and coverage](figures/risk-coverage.png)",
        "",
        "## Conversations (`training/prompts/conversations.jsonl`, on which the margins were set)",
        "",
        "| kind of last turn | conversations | right domain |",
        "|---|---|---|",
        *(f"| {kind} | {c['conversations']} | {c['right']} |" for kind, c in folded.items()),
        "",
        *_cost(stored),
        "## Policy",
        "Thresholds and temperature come from students that had not seen the source asked about (`calibrate.py`);",
        "its two constants, the share decided and the sharpening, were chosen once with the development set in view.",
        "",
        "```json",
        json.dumps(
            {
                "temperature": manifest.policy.temperature,
                "thresholds": manifest.policy.thresholds,
                "margin": manifest.policy.margin,
            },
            indent=1,
        ),
        "```",
        "",
        *_sources(manifest.trained),
    ]
    return "\n".join(lines) + "\n"


def kept(
    found: dict[str, Any], folded: dict[str, Any], data: str, bench: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What the manifest keeps of the figures: with their bars, and which way is better."""
    figures = [
        {"name": title, "value": found[key], "bar": bar, "better": "less" if key in _ERRORS else "more"}
        for title, key, bar in _BARS
    ]
    figures += [
        {"name": f"loss of macro-F1: {name.replace('_', ' ')}", "value": noise["loss"], "bar": "0.03", "better": "less"}
        for name, noise in found["robustness"].items()
    ]
    parts = ("rows", "by_domain", "by_source", "confusion", "reliability", "risk_coverage")
    cost = {"cost": bench} if bench is not None else {}
    return {"data": data, "figures": figures, **{part: found[part] for part in parts}, "conversations": folded, **cost}


def draw_confusion(found: dict[str, Any], path: Path) -> None:
    names, counts = found["confusion"]["domains"], np.array(found["confusion"]["counts"], dtype=float)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    figure, axes = plt.subplots(figsize=(5.2, 4.6))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for i in range(len(names)):
        for j in range(len(names)):
            if counts[i, j]:
                colour = "white" if shares[i, j] > 0.5 else "black"
                axes.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("decided")
    axes.set_ylabel("right")
    _save(figure, path)


def draw_reliability(found: dict[str, Any], path: Path) -> None:
    bins = found["reliability"]
    figure, axes = plt.subplots(figsize=(4.2, 4))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], marker="o")
    for b in bins:
        axes.annotate(
            str(b["rows"]), (b["confidence"], b["accuracy"]), fontsize=7, xytext=(4, -8), textcoords="offset points"
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration error {found['ece']}", fontsize=9)
    _save(figure, path)


def draw_risk(found: dict[str, Any], path: Path) -> None:
    shares, accuracies = zip(*found["risk_coverage"], strict=True)
    figure, axes = plt.subplots(figsize=(4.2, 4))
    axes.plot(shares, [1 - accuracy for accuracy in accuracies], marker=".")
    axes.axhline(0.05, color="grey", linewidth=1)
    axes.axvline(found["coverage"], color="grey", linewidth=1, linestyle=":")
    axes.set_xlabel("share of prompts decided (surest first)")
    axes.set_ylabel("share of these decided wrongly")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _cost(stored: dict[str, Any] | None) -> list[str]:
    if stored is None:
        return []
    return section(stored).splitlines()


def _sources(trained: dict[str, Any]) -> list[str]:
    corpus = trained.get("corpus", {})
    if not corpus:
        return []
    lines = [
        "## Data and licences",
        f"{corpus['rows']} prompts, after {corpus['near_duplicates']} near-duplicates were dropped and",
        f"{corpus['overlapping_evaluation']} that overlapped the evaluation file. The project holds no sentence of the",
        "public data, only the weights learned from it; `own:*` was written for the project (`training/prompts`).",
        "The vocabulary holds words of a frequency list (wordfreq, data CC-BY-SA-4.0).",
        "",
        "| domain | source | licence | prompts |",
        "|---|---|---|---|",
    ]
    return lines + [f"| {s['domain']} | {s['source']} | {s['license']} | {s['rows']} |" for s in corpus["sources"]]


if __name__ == "__main__":
    import typer

    def main(data: list[Path], bench: Path = BENCH, weights: Path | None = None) -> None:
        text = card(data, bench, weights)
        (ROUTER / "CARD.md").write_text(text, encoding="utf-8")
        print(text)

    typer.run(main)
