"""The matrix is computed from answers; files are whole."""

import json
from collections.abc import Sequence
from pathlib import Path

from adapters.evaluation import draw_matrix, evaluate, exam_matrix, exam_questions


def test_rates_count_right_answers() -> None:
    right = {
        question.prompt: question.answer for domain in ("math", "legal") for question in exam_questions(domain, 20)
    }
    legal = {question.prompt for question in exam_questions("legal", 20)}

    def ask(name: str, prompts: Sequence[str]) -> list[str]:
        if name == "base":
            return ["no idea"] * len(prompts)
        return [right[prompt] if (prompt in legal) == (name == "legal") else "" for prompt in prompts[:10]] + [""] * 10

    matrix = exam_matrix(ask, ("base", "math", "legal"), ("math", "legal"), count=20)
    assert matrix == {
        "base": {"math": 0.0, "legal": 0.0}, "math": {"math": 0.5, "legal": 0.0}, "legal": {"math": 0.0, "legal": 0.5},
    }  # fmt: skip


def test_more_questions_begin_with_the_same() -> None:
    assert exam_questions("sql", 30)[:10] == exam_questions("sql", 10)
    assert exam_questions("sql", 10, seed=1) != exam_questions("sql", 10)


def test_a_base_alone_is_evaluated_and_written(base: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "matrix.json", tmp_path / "matrix.png"
    result = evaluate(str(base), {}, out, picture, count=2, domains=("finance", "legal"))
    assert json.loads(out.read_text()) == result
    assert result["matrix"] == {"base": {"finance": 0.0, "legal": 0.0}}
    assert result["losses"]["base"]["finance"] > 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["matrix.json", "matrix.png"]


def test_heat_map_of_any_size(tmp_path: Path) -> None:
    draw_matrix({"base": {"math": 0.1}}, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000
