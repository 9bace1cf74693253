"""How well a domain is added from a few examples: each of the domains left out in turn, on other sources than trained.

    python -m router.training.left_out a.jsonl b.jsonl run/ --exclude dev.jsonl
    python -m router.training.added_domain --data dev.jsonl --students run/ --out router/figures/added-domain.json

For each domain the TinyAda that does not know it gets 32 of its prompts in ``--data``, drawn at random, and decides
all others. ``recall``: share of the domain's remaining prompts that go to it (``served``: and are not abstained from).
``loss``: macro-F1 of the other domains, over their prompts alone, without the addition minus with it. Means over
the draws; ``least`` and ``most`` are the worst draw. ``refused`` draws, whose examples told nothing apart, count as
no recall and no loss.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

from router.decision import Decision
from router.errors import RouterError
from router.model import TinyAda
from router.training.balance import REJECTED
from router.training.collect import Prompt, read
from router.training.evaluate import figures

EXAMPLES, DRAWS = 32, 8


def measure(domain: str, rows: Sequence[Prompt], weights: Path, count: int, draws: int) -> dict[str, Any]:
    """The figures of adding ``domain`` to the TinyAda in ``weights``, which must not know it."""
    ada = TinyAda.load(weights)
    own = [row for row in rows if row.domain == domain]
    others = [row for row in rows if row.domain != domain]
    before = _macro(others, [ada.route(row.text) for row in others], domain)
    recalls, served, losses, seconds, refused = [], [], [], [], 0
    for draw in range(draws):
        chosen = set(random.Random(draw).sample(range(len(own)), count))
        began = perf_counter()
        try:
            found = ada.with_domains([ada.domain(domain, [own[i].text for i in sorted(chosen)])])
        except RouterError:
            found, refused = ada, refused + 1
        seconds.append(perf_counter() - began)
        decisions = [found.route(row.text) for i, row in enumerate(own) if i not in chosen]
        recalls.append(sum(decision.domain == domain for decision in decisions) / len(decisions))
        right = sum(decision.domain == domain and not decision.abstained for decision in decisions)
        served.append(right / len(decisions))
        losses.append(before - _macro(others, [found.route(row.text) for row in others], domain))
    return {
        "prompts": len(own) - count,
        "refused": refused,
        "recall": _mean(recalls),
        "least_recall": round(min(recalls), 4),
        "served": _mean(served),
        "macro_f1_before": round(before, 4),
        "loss": _mean(losses),
        "most_loss": round(max(losses), 4),
        "seconds": round(max(seconds), 3),
    }


def _macro(rows: Sequence[Prompt], decisions: Sequence[Decision], new: str) -> float:
    """Macro-F1 over the domains that were there before; a prompt sent to the new one is a miss."""
    scores = figures(rows, decisions)["by_domain"]
    return float(sum(score["f1"] for name, score in scores.items() if name != new) / len(scores.keys() - {new}))


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


if __name__ == "__main__":
    import typer

    def main(
        data: Annotated[list[Path], typer.Option()],
        students: Annotated[Path, typer.Option()],
        examples: int = EXAMPLES,
        draws: int = DRAWS,
        out: Path | None = None,
    ) -> None:
        rows = [row for path in data for row in read(path) if row.domain not in REJECTED]
        found: dict[str, Any] = {"examples": examples, "draws": draws, "domains": {}}
        for domain in sorted({row.domain for row in rows} - {"general"}):
            figure = measure(domain, rows, students / domain / "weights", examples, draws)
            found["domains"][domain] = figure
            print(domain, json.dumps(figure), flush=True)
        if out:
            out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    typer.run(main)
