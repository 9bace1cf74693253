"""All stages in order: collect, teacher and spans, vocabulary, ensemble, folds, distil, calibrate, export, statistics.

    python -m router.training.pipeline a.jsonl b.jsonl weights/ --exclude dev.jsonl --work run/

The result, a directory that `router.TinyAda.load` takes, is in ``out``; the stages' files are in ``work``, and a stage
whose files are there is skipped. Any label set of 2 to 50 domains will do; rows of the domain ``outlier`` train the
rejection signal. With ``--teacher none`` it takes minutes on two cores; ``--teacher minilm`` fine-tunes an encoder
first, which is the longest stage.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from router.errors import RouterError
from router.manifest import Manifest
from router.model import TinyAda
from router.tokenization import Tokenizer
from router.training import calibrate, spans, statistics, teacher, vocabulary
from router.training.balance import REJECTED, labels, weights
from router.training.collect import OUTLIER, Prompt, collect, load_corpus, read
from router.training.distil import Schedule, distil, load, logits, save
from router.training.export import export
from router.training.followups import FOLLOWUP, followups
from router.training.student import Design, Student

HERE = Path(__file__).parent
PROMPTS = HERE / "prompts"
WORDS = HERE / "words.txt"
SHIPPED = frozenset(("code", "sql", "math", "medical", "finance", "legal", "support", "general"))
"""The label set that the project's own prompts belong to."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What every student of a run is taught with, but for the rows."""

    names: tuple[str, ...]
    tokenizer: Tokenizer
    vectors: NDArray[np.float32]
    design: Design
    schedule: Schedule

    def teach(self, rows: Sequence[Prompt], soft: NDArray[np.float32] | None) -> Student:
        return distil(rows, self.tokenizer, self.vectors, self.design, self.schedule, soft, self.names)


def train(
    data: list[Path],
    out: Path,
    exclude: list[Path] | None = None,
    work: Path | None = None,
    teacher_name: str = "minilm",
    samples: int = 40_000,
    own_prompts: bool = True,
    folds: int = 4,
    unlabelled: list[Path] | None = None,
    ensemble: int = 0,
    width: int = 160,
    epochs: int = 8,
    draws: int = 0,
    coverage: float = calibrate.COVERAGE,
    smoke: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a TinyAda on ``data`` and write it to ``out``; returns the manifest's ``trained`` part.

    ``exclude``: evaluation files, whose texts may not be trained on. ``teacher_name``: ``none``, ``minilm``, a Hugging
    Face encoder or a directory. ``unlabelled``: JSONL files with further texts for the teacher to label.
    ``ensemble``: students of other seeds that label these texts together with the teacher.
    ``draws``: prompts an epoch (0: as many as there are). ``folds``: held-out-source folds for calibration.
    ``coverage``: the share of prompts of unseen sources that thresholds leave decided. ``smoke``: JSON list of
    (text, domain) that must route right; without it, rows that the student is surest of. Raises `RouterError` on
    data that cannot be used.
    """
    began = time.time()
    torch.set_num_threads(1)
    work = work or out.with_name(out.name + ".work")
    rows = corpus(data, exclude or [], work, own_prompts)
    names = labels(rows)
    rows, soft = _teacher_stage(rows, names, work, teacher_name, samples, unlabelled or [], seed)
    tokenizer, vectors = _vocabulary_stage(work, width)
    design = Design(hidden=128, pair_buckets=32_768, pair_width=24, seed=seed)
    schedule = Schedule(epochs=epochs, draws=draws or max(8_000, len(rows)))
    lesson = Lesson(names, tokenizer, vectors, design, schedule)
    if soft is not None and ensemble:
        rows, soft = _ensemble_stage(rows, work, ensemble, lesson, soft)
    held = _fold_stage(rows, work, folds, lesson, soft)
    student_file = work / "student" / "student.pt"
    if not student_file.is_file():
        print("distil: the last student", flush=True)
        student = lesson.teach(rows, soft)
        save(student, names, student_file.parent)
    student, _ = load(student_file)
    counts = weights(rows) * [row.form != spans.FORM for row in rows]
    policy = calibrate.policy(held, names, rows, counts, coverage)
    trained = {
        "corpus": json.loads((work / "corpus.json").read_text()),
        "teacher": teacher_name,
        "ensemble": ensemble,
        "design": asdict(design),
        "schedule": asdict(schedule),
    }
    pairs = _smoke(smoke, rows, names, calibrate.confidences(held, names, rows, policy.temperature))
    manifest = Manifest(
        labels=names,
        rejected=tuple(name for name in names if name in REJECTED),
        policy=policy,
        files={},
        smoke=pairs,
        pair_buckets=design.pair_buckets,
        trained=trained,
    )
    check = [row.text for row in rows[:500]]
    changed = export(student, work / "vocabulary" / "vocabulary.txt", manifest, out, check)
    TinyAda.load(out).smoke()
    statistics.measure(out, [row for row in rows if row.form != spans.FORM], seed)
    minutes = (time.time() - began) / 60
    print(f"{out}: done in {minutes:.1f} min; ONNX differs from PyTorch on {changed:.1%}", flush=True)
    return trained


def corpus(data: Sequence[Path], exclude: Sequence[Path], work: Path, own_prompts: bool) -> list[Prompt]:
    if (work / "corpus.json").is_file():
        return load_corpus(work / "corpus.jsonl")
    given = [row for path in data for row in read(path)]
    wanted = {row.domain for row in given} | {OUTLIER}
    if own_prompts:  # of another label set, only the outliers serve
        files = sorted(path for path in PROMPTS.glob("*.jsonl") if not path.name.startswith("conversations"))
        given += [row for path in files for row in read(path) if row.domain in wanted]
    rows = collect([*given, *followups(1200)], work, exclude)
    domains = {row.domain for row in rows} - set(REJECTED)
    if not 2 <= len(domains) <= 50:
        raise RouterError(f"training needs 2 to 50 domains, the data has {len(domains)}: {sorted(domains)}")
    print(f"collect: {len(rows)} rows, {len(domains)} domains", flush=True)
    return rows


def _teacher_stage(
    rows: list[Prompt],
    names: tuple[str, ...],
    work: Path,
    name: str,
    samples: int,
    unlabelled: Sequence[Path],
    seed: int,
) -> tuple[list[Prompt], NDArray[np.float32] | None]:
    """The rows with spans added, and the teacher's probabilities for all of them; or the rows as they are."""
    if name == "none":
        return rows, None
    stored, cut = work / "teacher.npy", work / "spans.json"
    if not stored.is_file():
        directory = work / "teacher"
        done = (directory / "head.pt").is_file()
        model = (
            teacher.Teacher.load(str(directory))
            if done
            else teacher.fine_tune(rows, directory, name, samples, seed=seed)
        )
        texts = spans.cut(rows, [text for path in unlabelled for text in _texts(path)], len(rows) // 4, seed)
        found = teacher.soft_labels(model, [row.text for row in rows] + texts)
        soft = np.zeros((len(found), len(names)), dtype=np.float32)
        soft[:, [names.index(label) for label in model.names]] = softmax(found)
        cut.write_text(json.dumps(texts), encoding="utf-8")
        np.save(stored, soft)
    soft = np.load(stored)
    soft[[i for i, row in enumerate(rows) if row.domain == FOLLOWUP]] = np.nan  # the teacher does not know these
    texts = json.loads(cut.read_text(encoding="utf-8"))
    return rows + spans.labelled(texts, soft[len(rows) :], names), soft


def _texts(path: Path) -> list[str]:
    """The text of every row of a JSONL file, labelled or not."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [str(row.get("text") or row.get("response") or "") for row in rows]


def _vocabulary_stage(work: Path, width: int) -> tuple[Tokenizer, NDArray[np.float32]]:
    if not (work / "vocabulary" / "vectors.npy").is_file():
        print("vocabulary: tokens and their first vectors", flush=True)
        torch.set_num_threads(os.cpu_count() or 1)  # large products, unlike the student's
        vocabulary.make(work / "corpus.jsonl", work / "vocabulary", "minilm", WORDS, 36_000, 256)
        torch.set_num_threads(1)
    vectors = np.load(work / "vocabulary" / "vectors.npy")[:, :width].copy()
    return Tokenizer.load(work / "vocabulary" / "vocabulary.txt"), vectors


def _ensemble_stage(
    rows: list[Prompt], work: Path, count: int, lesson: Lesson, soft: NDArray[np.float32]
) -> tuple[list[Prompt], NDArray[np.float32]]:
    """The rows and soft labels, those of the spans now the mean of the teacher's and of ``count`` students'."""
    given = [row for row in rows if row.form != spans.FORM]
    texts = [row.text for row in rows if row.form == spans.FORM]
    found = [soft[len(given) :]]
    for number in range(1, count + 1):
        stored = work / "ensemble" / f"{number}.npy"
        if not stored.is_file():
            print(f"ensemble: student {number} of {count}", flush=True)
            other = replace(lesson, design=replace(lesson.design, seed=lesson.design.seed + number))
            student = other.teach(rows, soft)
            stored.parent.mkdir(exist_ok=True)
            np.save(stored, softmax(logits(student, lesson.tokenizer, texts)))
        found.append(np.load(stored))
    mean = np.asarray(np.mean(found, axis=0), dtype=np.float32)
    return given + spans.labelled(texts, mean, lesson.names), np.concatenate([soft[: len(given)], mean])


def _fold_stage(
    rows: list[Prompt], work: Path, count: int, lesson: Lesson, soft: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Logits of every row by a student that saw none of its source."""
    stored = work / "held_out.npy"
    if stored.is_file():
        return np.asarray(np.load(stored))
    which = calibrate.folds(rows, count)
    labelled = np.array([row.form != spans.FORM for row in rows])  # spans would leak from the held-out sources
    result = np.zeros((len(rows), len(lesson.names)), dtype=np.float32)
    for fold in range(count):
        print(f"fold {fold + 1}/{count}", flush=True)
        seen = np.nonzero((which != fold) & labelled)[0]
        shorter = replace(lesson, schedule=replace(lesson.schedule, draws=len(seen)))
        student = shorter.teach([rows[i] for i in seen], None if soft is None else soft[seen])
        hidden = np.nonzero(which == fold)[0]
        if len(hidden):
            result[hidden] = logits(student, lesson.tokenizer, [rows[i].text for i in hidden])
    np.save(stored, result)
    return result


def softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of logits to probabilities."""
    powers = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), dtype=np.float32)


def _smoke(
    path: Path | None, rows: Sequence[Prompt], names: Sequence[str], found: calibrate.Confidences
) -> tuple[tuple[str, str], ...]:
    """The given pairs, the shipped ones, or for each domain the two short rows that held-out students got best."""
    domains = [name for name in names if name not in REJECTED]
    if path is None and set(domains) == SHIPPED:
        path = HERE / "smoke.json"
    if path is None:
        right = [i for i in np.argsort(-found.confidence) if found.right[i] and len(rows[i].text) < 300]
        best = {name: [i for i in right if rows[i].domain == name][:2] for name in domains}
        return tuple((rows[i].text, name) for name in domains for i in best[name])
    pairs = tuple((str(text), str(domain)) for text, domain in json.loads(path.read_text(encoding="utf-8")))
    unknown = {domain for _, domain in pairs} - set(domains)
    if unknown:
        raise RouterError(f"{path}: {sorted(unknown)} are not among the domains {domains}")
    return pairs


if __name__ == "__main__":
    import typer

    def main(
        data: list[Path],
        out: Path,
        exclude: list[Path] = [],  # noqa: B006
        work: Path | None = None,
        teacher: str = "minilm",
        folds: int = 4,
        unlabelled: list[Path] = [],  # noqa: B006
        ensemble: int = 0,
        epochs: int = 10,
    ) -> None:
        train(data, out, exclude, work, teacher, folds=folds, unlabelled=unlabelled, ensemble=ensemble, epochs=epochs)

    typer.run(main)
