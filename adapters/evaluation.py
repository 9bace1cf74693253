"""The matrix: every adapter, and the base alone, on every domain's exam and held-out loss; as JSON and a heat map.

`exam_matrix` needs only something that answers prompts by a model's name: models in this process
(`adapters.generation`), or a running server behind a function of the caller.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.exams import EXAMS, Question, questions

BASE = "base"  # the name under which the bare base answers
Ask = Callable[[str, Sequence[str]], list[str]]
Matrix = dict[str, dict[str, float]]


def evaluate(
    base: str, adapters: Mapping[str, Path], json_file: Path | None = None, heat_map: Path | None = None,
    count: int = 100, seed: int = 0, device: str = "cpu", domains: Sequence[str] = tuple(EXAMS), loss: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Examine `base` and each of `adapters` (name -> directory) on `domains`; `count` questions each.

    Returns `{"matrix": {model: {domain: pass rate}}, "losses": {model: {domain: nats per answer token}}, ...}` and
    writes it to `json_file` and its picture to `heat_map` where these are given.
    """
    from adapters.generation import LocalModels

    models = LocalModels(base, dict(adapters), device)
    result: dict[str, Any] = {
        "questions": count,
        "seed": seed,
        "matrix": exam_matrix(models.answer, models.names, domains, count, seed),
    }
    if loss:
        result["losses"] = loss_matrix(models, domains, count, seed)
    if json_file:
        write_json(json_file, result)
    if heat_map:
        draw_matrix(result["matrix"], heat_map)
    return result


def exam_questions(domain: str, count: int, seed: int = 0) -> list[Question]:
    """The exam of `domain`: combinations that no training question has."""
    return list(itertools.islice(questions(EXAMS[domain], "exam", seed), count))


def exam_matrix(
    ask: Ask, names: Sequence[str], domains: Sequence[str] = tuple(EXAMS), count: int = 100, seed: int = 0
) -> Matrix:
    """Pass rate of each model on each exam, through `ask(name, prompts) -> answers`. Prints a line per cell's row."""
    matrix: Matrix = {name: {} for name in names}
    for domain in domains:
        exam, asked = EXAMS[domain], exam_questions(domain, count, seed)
        for name in names:
            answers = ask(name, [question.prompt for question in asked])
            passed = sum(exam.passes(question, answer) for question, answer in zip(asked, answers, strict=True))
            matrix[name][domain] = round(passed / count, 4)
        print(f"{domain:8} " + " ".join(f"{name} {matrix[name][domain]:.2f}" for name in names), flush=True)
    return matrix


def loss_matrix(models: Any, domains: Sequence[str], count: int, seed: int) -> Matrix:
    """Mean loss per answer token of each model on each exam's reference answers."""
    from adapters.dataset import encode
    from adapters.training import TrainSettings, evaluate_loss

    losses: Matrix = {name: {} for name in models.names}
    for domain in domains:
        pairs = [
            [{"role": "user", "content": q.prompt}, {"role": "assistant", "content": q.answer}]
            for q in exam_questions(domain, count, seed)
        ]
        encoded = [example for pair in pairs if (example := encode(pair, models.tokenizer, 512))]
        for name in models.names:
            models.activate(name)
            settings = TrainSettings(row_length=512)
            losses[name][domain] = round(evaluate_loss(models.model, models.tokenizer, encoded, settings), 4)
    return losses


def write_json(path: Path, value: Any) -> None:
    """Written whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    part.replace(path)


def draw_matrix(matrix: Matrix, path: Path) -> None:
    """The matrix as a heat map with its numbers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, columns = list(matrix), list(next(iter(matrix.values())))
    figure, axes = pyplot.subplots(figsize=(1.4 + 0.8 * len(columns), 1.2 + 0.5 * len(rows)), layout="constrained")
    axes.imshow([[matrix[row][column] for column in columns] for row in rows], cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("exam")
    axes.set_ylabel("model")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            rate = matrix[row][column]
            axes.text(x, y, f"{rate:.0%}", ha="center", va="center", color="white" if rate > 0.5 else "black")
    figure.savefig(path, dpi=110, format="png")
    pyplot.close(figure)
