"""`zephyra router train` and `evaluate` from the command line."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from router import TinyAda
from server.cli import app

WORDS = {
    "cooking": "simmer roast oven garlic butter recipe dough pan whisk salt",
    "sailing": "jib mast rudder tack anchor harbour halyard keel boom tide",
    "chess": "bishop rook pawn gambit castle endgame knight queen check opening",
    "gardening": "prune compost seedling mulch hedge tulip lawn weed soil greenhouse",
}


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


def questions(domain: str, count: int) -> list[str]:
    choose = random.Random(domain)
    words = WORDS[domain].split()
    return [
        f"What of the {a} when the {b} meets the {c}?" for a, b, c in (choose.sample(words, 3) for _ in range(count))
    ]


def test_train_on_a_table_of_other_domains_then_add_one_more(tmp_path: Path) -> None:
    known = [name for name in WORDS if name != "gardening"]
    rows = [f"{text},{name}" for name in known for text in questions(name, 80)]
    table, out = tmp_path / "rows.csv", tmp_path / "out"
    table.write_text("\n".join(["text,domain", *rows]) + "\n")
    code, text = run("train", "--data", str(table), "--out", str(out), "--epochs", "1", "--folds", "2")
    assert code == 0, text
    ada = TinyAda.load(out)
    assert sorted(ada.domains) == sorted(known)
    assert [ada.route(f"Tell me about the {WORDS[name].split()[0]}").domain for name in known] == known
    more = ada.with_domains([ada.domain("gardening", questions("gardening", 24))])
    assert more.route("What of the mulch when the soil meets the hedge?").domain == "gardening"
    assert more.route("What of the bishop when the rook meets the pawn?").domain == "chess"
