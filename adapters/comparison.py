"""The whole system compared: same base, same questions, the same number of steps in all.

    python -m adapters.comparison BASE OUT [--steps 200] [--seeds 3] [--count 60] [--decisions FILE]

Arms: (a) base alone; (b) full fine-tuning on one domain after the other; (c) full fine-tuning on all mixed; (d) one
LoRA on all mixed; (e) one LoRA per domain, the right one given; (f) chosen by TinyAda; (g) chosen at random. `--steps`
are per domain: b, c and d take seven times as many. FILE maps each exam prompt to the domain that TinyAda chose
(`{"prompt": "domain"}`, `general` for the base); without it (f) is left out. Each arm and seed runs in a process of
its own, so that its peak memory is its own, and leaves OUT/ARM-SEED.json; what is there is not run again.
OUT/comparison.json is the table.
"""

import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from adapters import dataset, evaluation, lora
from adapters.dataset import Example
from adapters.evaluation import BASE
from adapters.exams import EXAMS, questions
from adapters.generation import LocalModels
from adapters.training import Order, TrainSettings, answer_loss, rate

TRAINED_ARMS = ("base", "full-sequential", "full-mixed", "lora-mixed", "lora-per-domain")
LETTERS = {
    "base": "a", "full-sequential": "b", "full-mixed": "c", "lora-mixed": "d",
    "oracle": "e", "resolve": "f", "random": "g",
}  # fmt: skip
LORA_RATE, FULL_RATE = 3e-3, 1.5e-3
BATCH_ROWS = 2  # of 256 tokens
PER_DOMAIN = 1000  # training questions


def fit(model: nn.Module, tokenizer: Any, examples: list[Example], steps: int, learning_rate: float, seed: int) -> None:
    """Train whatever of `model` asks for a gradient, for `steps` steps."""
    settings = TrainSettings(steps=steps, seed=seed, learning_rate=learning_rate, batch_rows=BATCH_ROWS)
    order, parameters = Order(examples, settings), lora.trainable(model)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate(step / steps, settings.warmup)
        batch = dataset.collate(order.rows(step)[0], tokenizer.pad_token_id, torch.float32, "cpu")
        loss = answer_loss(model, batch) / (batch["labels"] != dataset.IGNORED).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 49:
            print(f"  step {step + 1}/{steps} loss {float(loss.detach()):.4f}", flush=True)
    model.eval()


def examples_of(domains: Iterable[str], tokenizer: Any, seed: int) -> list[Example]:
    """Training questions of `domains`, encoded."""
    asked = (q for domain in domains for q in itertools.islice(questions(EXAMS[domain], "train", seed), PER_DOMAIN))
    encoded = (
        dataset.encode(
            [{"role": "user", "content": q.prompt}, {"role": "assistant", "content": q.answer}], tokenizer, 256
        )
        for q in asked
    )
    return [example for example in encoded if example]


def run_arm(base: str, arm: str, seed: int, steps: int, count: int) -> dict[str, Any]:
    """Train one arm and examine it; `passed` says so for each model name and each question of each exam."""
    torch.manual_seed(seed)
    models = LocalModels(base, {})
    model, tokenizer, domains = models.model, models.tokenizer, list(EXAMS)
    began, size, trainable = time.monotonic(), 0, 0
    names = [BASE]
    if arm.startswith("full"):
        model.requires_grad_(True)
        trainable = sum(p.numel() for p in lora.trainable(model))
        parts = [[domain] for domain in domains] if arm == "full-sequential" else [domains]
        for part in parts:
            fit(
                model,
                tokenizer,
                examples_of(part, tokenizer, seed),
                steps * len(domains) // len(parts),
                FULL_RATE,
                seed,
            )
        size = trainable * 2
    elif arm.startswith("lora"):
        trained = domains if arm == "lora-per-domain" else ["all"]
        # An abstention goes to the base, so that (f) needs its answers, too.
        names = [*trained, BASE] if arm == "lora-per-domain" else trained
        for name in trained:
            lora.inject(model, lora.LoraConfig(), name)
            part = domains if name == "all" else [name]
            fit(
                model,
                tokenizer,
                examples_of(part, tokenizer, seed),
                steps * len(domains) // len(trained),
                LORA_RATE,
                seed,
            )
            trainable += sum(p.numel() for p in lora.trainable(model))
        size = trainable * 4
    seconds = time.monotonic() - began
    passed: dict[str, dict[str, list[bool]]] = {name: {} for name in names}
    for domain, name in itertools.product(domains, names):
        asked = evaluation.exam_questions(domain, count, seed)
        answers = models.answer(name, [q.prompt for q in asked])
        passed[name][domain] = [EXAMS[domain].passes(q, a) for q, a in zip(asked, answers, strict=True)]
    return {
        "arm": arm, "seed": seed, "trainable_parameters": trainable,
        "train_seconds": round(seconds, 1) if trainable else 0,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "disk_bytes": size, "passed": passed,
    }  # fmt: skip


def summarise(runs: list[dict[str, Any]], count: int, decisions: dict[str, str] | None) -> list[dict[str, Any]]:
    """One row for each of (a) to (g): pass rates over all seeds, their spread, and what the arm cost."""
    rows = []
    for name, letter in LETTERS.items():
        source = "lora-per-domain" if letter in "efg" else name
        chosen = [run for run in runs if run["arm"] == source]
        if not chosen or (letter == "f" and decisions is None):
            continue
        rates = [{domain: _rate(run, letter, domain, count, decisions) for domain in EXAMS} for run in chosen]
        means = [statistics.mean(rate.values()) for rate in rates]
        rows.append(
            {
                "arm": letter, "name": name, "mean": round(statistics.mean(means), 4),
                "spread": round(statistics.stdev(means), 4) if len(means) > 1 else None,
                "domains": {domain: round(statistics.mean(rate[domain] for rate in rates), 4) for domain in EXAMS},
                "trainable_parameters": chosen[0]["trainable_parameters"],
                "train_seconds": round(statistics.mean(run["train_seconds"] for run in chosen), 1),
                "peak_bytes": max(run["peak_bytes"] for run in chosen), "disk_bytes": chosen[0]["disk_bytes"],
                "seeds": len(chosen),
            }
        )  # fmt: skip
    return rows


def _rate(run: dict[str, Any], letter: str, domain: str, count: int, decisions: dict[str, str] | None) -> float:
    passed = run["passed"]
    if letter in "abcd":
        return float(statistics.mean(next(iter(passed.values()))[domain]))
    rng = random.Random(f"{run['seed']}/{domain}")
    asked = evaluation.exam_questions(domain, count, run["seed"])
    total = 0
    for index, question in enumerate(asked):
        name = domain if letter == "e" else rng.choice(list(EXAMS))
        if letter == "f" and decisions is not None:
            name = decisions[question.prompt]
            name = BASE if name == "general" else name
        total += passed[name][domain][index]
    return float(total / count)


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'arm':22} {'pass':>6} {'spread':>7} {'trained':>11} {'seconds':>8} {'peak MB':>8} {'disk MB':>8}")
    for row in rows:
        spread = "" if row["spread"] is None else f"{row['spread']:.3f}"
        print(
            f"({row['arm']}) {row['name']:18} {row['mean']:6.3f} {spread:>7} {row['trainable_parameters']:11,} "
            f"{row['train_seconds']:8.0f} {row['peak_bytes'] / 1e6:8.0f} {row['disk_bytes'] / 1e6:8.1f}"
        )


def main(
    base: str, out: Path, steps: int = 200, seeds: int = 3, count: int = 60, decisions: Path | None = None,
    arm: str = "", seed: int = 0, threads: int = 1,
) -> None:  # fmt: skip
    """Run what is missing and write the table; with `--arm` and `--seed` just that one run."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    if arm:
        evaluation.write_json(out / f"{arm}-{seed}.json", run_arm(base, arm, seed, steps, count))
        return
    runs = []
    for number, name in itertools.product(range(seeds), TRAINED_ARMS):
        path = out / f"{name}-{number}.json"
        if not path.exists():
            print(f"{name}, seed {number}", flush=True)
            call = [sys.executable, "-m", "adapters.comparison", base, str(out), "--arm", name, "--seed", str(number)]
            call += ["--steps", str(steps), "--count", str(count), "--threads", str(threads)]
            subprocess.run(call, check=True)
        runs.append(json.loads(path.read_text()))
    chosen = None if decisions is None else json.loads(decisions.read_text())
    rows = summarise(runs, count, chosen)
    evaluation.write_json(out / "comparison.json", {"steps": steps, "questions": count, "rows": rows})
    print_table(rows)


if __name__ == "__main__":
    typer.run(main)
