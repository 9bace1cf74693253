"""`zephyra router train` and `evaluate` from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from server.cli import app


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["router", *arguments])
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    rows = ["text,domain", "Solve 3x + 7 = 22 for x.,math", "Is a verbal contract binding?,legal"]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_evaluate_prints_the_figures(table: Path) -> None:
    code, text = run("evaluate", "--data", str(table), "--json")
    assert code == 0
    found = json.loads(text)
    assert (found["rows"], found["accuracy"]) == (2, 1.0)
    assert {"macro_f1", "ece", "coverage", "wrong_adapter", "robustness", "confusion"} <= set(found)


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_data_that_is_not_there(command: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out")) if command == "train" else ()
    code, text = run(command, "--data", str(tmp_path / "none.csv"), *out)
    assert code == 2
    assert "no such file" in text


def test_one_domain_is_no_router(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"question {word}", "domain": "fruit"}) + "\n" for word in "abc"))
    code, text = run("train", "--data", str(rows), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "2 to 50 domains" in text
    assert not (tmp_path / "out").exists()
