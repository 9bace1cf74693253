"""The table (a) to (g): arms run, and rows are computed from what was passed."""

from pathlib import Path
from typing import Any

import pytest

from adapters import comparison
from adapters.evaluation import exam_questions
from adapters.exams import EXAMS


def run(arm: str, passed: dict[str, dict[str, list[bool]]], seed: int = 0) -> dict[str, Any]:
    costs = {"trainable_parameters": 5, "train_seconds": 2.0, "peak_bytes": 7, "disk_bytes": 9}
    return {"arm": arm, "seed": seed, "passed": passed, **costs}


def everywhere(value: bool) -> dict[str, list[bool]]:
    return {domain: [value, value] for domain in EXAMS}


def test_rows_follow_from_what_was_passed() -> None:
    own = {name: {domain: [domain == name] * 2 for domain in EXAMS} for name in EXAMS} | {"base": everywhere(False)}
    mixed = {"all": {domain: [True, False] for domain in EXAMS}}
    runs = [run("lora-per-domain", own, seed) for seed in (0, 1)] + [run("lora-mixed", mixed)]
    runs.append(run("base", {"base": everywhere(False)}))
    prompts = [(domain, q.prompt) for domain in EXAMS for seed in (0, 1) for q in exam_questions(domain, 2, seed)]
    decisions = {prompt: "general" if domain == "legal" else domain for domain, prompt in prompts}
    rows = {row["arm"]: row for row in comparison.summarise(runs, 2, decisions)}
    assert list(rows) == ["a", "d", "e", "f", "g"]
    assert (rows["a"]["mean"], rows["d"]["mean"], rows["e"]["mean"]) == (0.0, 0.5, 1.0)
    assert rows["f"]["mean"] == pytest.approx(6 / 7, abs=1e-4)
    assert rows["f"]["domains"]["legal"] == 0.0
    assert 0 <= rows["g"]["mean"] < 0.6
    assert rows["e"]["spread"] == 0.0
    assert rows["a"]["spread"] is None
    assert "f" not in {row["arm"] for row in comparison.summarise(runs, 2, None)}
    comparison.print_table(list(rows.values()))


@pytest.mark.parametrize("arm", comparison.TRAINED_ARMS)
def test_each_arm_runs(base: Path, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "PER_DOMAIN", 8)
    monkeypatch.setattr(comparison, "EXAMS", {name: EXAMS[name] for name in ("finance", "math")})
    result = comparison.run_arm(str(base), arm, seed=0, steps=1, count=1)
    names = {"lora-per-domain": {"finance", "math", "base"}, "lora-mixed": {"all"}}.get(arm, {"base"})
    assert set(result["passed"]) == names
    assert all(len(cell) == 1 for row in result["passed"].values() for cell in row.values())
    assert (result["trainable_parameters"] > 0) == (arm != "base")
    if arm == "full-mixed":
        assert result["trainable_parameters"] > 60_000
