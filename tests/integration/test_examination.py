"""Exams through a running server: whose answer is asked for, and what the command says when nobody is there."""

import json
from pathlib import Path

from typer.testing import CliRunner

from adapters.exams import EXAMS
from router import TinyAda
from server.cli import app
from server.examination import ask_server, exam_decisions
from tests.integration.conftest import PROMPTS


def test_each_name_is_asked_of_the_server(gateway_url: str) -> None:
    ask = ask_server(gateway_url)
    prompts = [PROMPTS["sql"], PROMPTS["legal"]]
    assert [answer.partition("@")[0] for answer in ask("math", prompts)] == ["math", "math"]
    assert [answer.partition("@")[0] for answer in ask("base", prompts)] == ["zero", "zero"]
    assert [answer.partition("@")[0] for answer in ask("resolve", prompts)] == ["sql", "legal"]


def test_the_matrix_of_a_server_is_written(gateway_url: str, tmp_path: Path) -> None:
    out = tmp_path / "served.json"
    done = CliRunner().invoke(
        app, ["adapters", "evaluate", "--server", gateway_url, "--count", "1", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    # The fake engine knows no answer.
    cells = dict.fromkeys(EXAMS, 0.0)
    assert json.loads(out.read_text())["matrix"] == {name: cells for name in ("base", *EXAMS, "resolve")}


def test_no_server_is_said_in_a_line() -> None:
    done = CliRunner().invoke(app, ["adapters", "evaluate", "--server", "http://127.0.0.1:9"])
    assert done.exit_code == 2
    assert "does not answer the exam" in done.output


def test_decisions_name_a_domain_for_every_prompt() -> None:
    chosen = exam_decisions(2, 2, TinyAda.load())
    assert len(chosen) == 4 * len(EXAMS)
    assert set(chosen.values()) <= {*EXAMS, "general"}
