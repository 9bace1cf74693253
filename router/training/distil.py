"""Stage 4, distil: the student learns labels and the teacher's soft labels over augmented prompts.

Every epoch draws as many prompts as the corpus holds, sources balanced, each augmented anew; the soft label of the
clean prompt serves its noisy copies too. The weights of the last epochs are averaged (Izmailov et al. 2018).

    python -m router.training.distil run/corpus.jsonl run/vocabulary run/student
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from router.tokenization import Tokenizer
from router.training.augment import augment, gibberish
from router.training.balance import labels, targets, weights
from router.training.collect import OUTLIER, Prompt, load_corpus
from router.training.spans import FORM
from router.training.student import Batch, Design, Student


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast; ``soft`` is the share of the teacher in the target, ``averaged`` of the epochs."""

    epochs: int = 12
    draws: int = 0
    batch: int = 256
    rate: float = 2e-3
    table_rate: float = 1e-3
    soft: float = 0.3
    smoothing: float = 0.05
    power: float = 0.5
    outliers: float = 0.03
    averaged: float = 0.4
    decay: float = 0.05


def distil(
    rows: Sequence[Prompt],
    tokenizer: Tokenizer,
    vectors: NDArray[np.float32],
    design: Design,
    schedule: Schedule,
    soft: NDArray[np.float32] | None = None,
    names: tuple[str, ...] = (),
) -> Student:
    """Train one student. ``soft``: the teacher's probabilities, shape (rows, labels), rows of NaN where it has none."""
    torch.manual_seed(design.seed)
    names = names or labels(rows)
    student = Student(torch.from_numpy(vectors), len(names), design)
    goals = mixed(rows, names, soft, schedule)
    chances = weights(rows, schedule.power)
    tables = student.tables()
    small = [p for p in student.parameters() if p.requires_grad and all(p is not t for t in tables)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SparseAdam(tables, lr=schedule.table_rate),
        torch.optim.AdamW(small, lr=schedule.rate, weight_decay=schedule.decay),
    ]
    draws = schedule.draws or len(rows)
    steps = schedule.epochs * (draws // schedule.batch)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps)) for optimizer in optimizers
    ]
    rng = random.Random(design.seed)
    first = int(schedule.epochs * (1 - schedule.averaged))
    mean: dict[str, Tensor] = {}
    began = time.time()
    for epoch in range(schedule.epochs):
        student.train()
        total = count = 0.0
        for batch, goal in batches(rows, goals, chances, names, tokenizer, draws, schedule, rng):
            loss = nn.functional.cross_entropy(student(batch), goal)
            student.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            total, count = total + loss.item(), count + 1
        student.eval()
        if epoch >= first:
            _average(mean, student, epoch - first + 1)
        took = time.time() - began
        print(f"distil {epoch + 1}/{schedule.epochs} loss {total / count:.3f} {took:.0f} s", flush=True)
    student.load_state_dict(mean)
    return student.eval()


def mixed(
    rows: Sequence[Prompt], names: Sequence[str], soft: NDArray[np.float32] | None, schedule: Schedule
) -> NDArray[np.float32]:
    """Label distributions: the given labels, smoothed, mixed with the teacher's; of spans, the teacher's alone."""
    goals = targets(rows, names, schedule.smoothing)
    if soft is None:
        return goals
    share = np.array([1.0 if row.form == FORM else schedule.soft for row in rows], dtype=np.float32)[:, None]
    return np.where(np.isnan(soft), goals, share * np.nan_to_num(soft) + (1 - share) * goals)


def batches(
    rows: Sequence[Prompt],
    goals: NDArray[np.float32],
    chances: NDArray[np.float64],
    names: Sequence[str],
    tokenizer: Tokenizer,
    draws: int,
    schedule: Schedule,
    rng: random.Random,
) -> Iterator[tuple[Batch, Tensor]]:
    """One epoch of (token ids, label distributions), sources balanced, texts augmented."""
    picks = np.random.default_rng(rng.randrange(2**32)).choice(len(rows), size=draws, p=chances)
    by_domain: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_domain[row.domain].append(row.text)
    nothing = np.full(len(names), schedule.smoothing / len(names), dtype=np.float32)
    nothing[list(names).index(OUTLIER)] += 1 - schedule.smoothing
    ids: list[NDArray[np.int64]] = []
    goal = goals[picks]
    for k, i in enumerate(picks):
        if rng.random() < schedule.outliers:
            ids.append(tokenizer.encode(gibberish(rng)))
            goal[k] = nothing
            continue
        noisy = augment(rows[i].text, rng, partial(rng.choice, by_domain[rows[i].domain]))
        ids.append(tokenizer.encode(noisy))
    size = schedule.batch
    for start in range(0, draws - size + 1, size):
        yield pack(ids[start : start + size]), torch.from_numpy(goal[start : start + size])


def pack(ids: Sequence[NDArray[np.int64]]) -> Batch:
    """Token ids of several texts end to end."""
    lengths = np.array([len(row) for row in ids])
    return Batch(torch.from_numpy(np.concatenate(ids)), torch.from_numpy(lengths.cumsum() - lengths))


def logits(student: Student, tokenizer: Tokenizer, texts: Sequence[str], batch: int = 256) -> NDArray[np.float32]:
    """The student's logits for each text, shape (texts, labels)."""
    ids = [tokenizer.encode(text) for text in texts]
    student.eval()
    with torch.inference_mode():
        parts = [student(pack(ids[k : k + batch])).numpy() for k in range(0, len(ids), batch)]
    return np.concatenate(parts)


def save(student: Student, names: Sequence[str], out: Path) -> None:
    """Write ``student.pt`` (weights, design, labels) into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    state = {"state": student.state_dict(), "design": json.dumps(asdict(student.design)), "names": list(names)}
    torch.save(state, out / "student.pt.part")
    (out / "student.pt.part").replace(out / "student.pt")


def load(path: Path) -> tuple[Student, tuple[str, ...]]:
    """The student and its labels that `save` wrote."""
    stored = torch.load(path)
    design = Design(**json.loads(stored["design"]))
    student = Student(stored["state"]["table.weight"], len(stored["names"]), design)
    student.load_state_dict(stored["state"])
    return student.eval(), tuple(stored["names"])


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return float(0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def _average(mean: dict[str, Tensor], student: Student, count: int) -> None:
    for key, value in student.state_dict().items():
        if count == 1:
            mean[key] = value.clone()
        else:
            mean[key] += (value - mean[key]) / count


if __name__ == "__main__":
    import typer

    def main(corpus: Path, vocabulary: Path, out: Path, epochs: int = 12, soft: Path | None = None) -> None:
        rows = load_corpus(corpus)
        student = distil(
            rows,
            Tokenizer.load(vocabulary / "vocabulary.txt"),
            np.load(vocabulary / "vectors.npy"),
            Design(hidden=128),
            Schedule(epochs=epochs),
            soft=np.load(soft) if soft else None,
        )
        save(student, labels(rows), out)

    typer.run(main)
