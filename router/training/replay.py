"""Replay prompts through two sets of weights: how often, and where, they disagree.

python -m router.training.replay prompts.jsonl --weights new/ --against router/weights
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from router.decision import GENERAL, Decision
from router.model import TinyAda


def replay(data: list[Path], weights: Path | None = None, against: Path | None = None) -> dict[str, Any]:
    """What ``weights`` would serve for the texts of JSONL files, and what ``against`` (none: the shipped ones) does.

    Rows need a ``text`` or OpenAI ``messages``; no label. Abstained decisions count as the base, `general`.
    """
    new, old = TinyAda.load(weights), TinyAda.load(against)
    pairs: Counter[tuple[str, str]] = Counter()
    for path in data:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                row = json.loads(line)
                pairs[_served(_route(old, row)), _served(_route(new, row))] += 1
    total = sum(pairs.values())
    changed = [(count, before, after) for (before, after), count in pairs.items() if before != after]
    return {
        "prompts": total,
        "weights": new.digest,
        "against": old.digest,
        "disagreement": round(sum(count for count, *_ in changed) / total, 4) if total else 0.0,
        "changes": [{"from": a, "to": b, "prompts": n} for n, a, b in sorted(changed, reverse=True)],
        "served": dict(Counter({name: sum(n for (_, b), n in pairs.items() if b == name) for name in new.domains})),
    }


def _route(ada: TinyAda, row: dict[str, Any]) -> Decision:
    if "messages" in row:
        return ada.route_conversation(row["messages"])
    return ada.route(str(row.get("text", "")))


def _served(decision: Decision) -> str:
    return GENERAL if decision.abstained else decision.domain


if __name__ == "__main__":
    import typer

    def main(data: list[Path], weights: Path | None = None, against: Path | None = None) -> None:
        print(json.dumps(replay(data, weights, against), indent=1))

    typer.run(main)
