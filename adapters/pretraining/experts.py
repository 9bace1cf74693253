"""Train the adapters that ship, one per domain, each on its exam's training questions.

    python -m adapters.pretraining.experts BASE OUT [--steps 600] [--domains math,sql] [--start EARLIER]

Writes OUT/questions/DOMAIN.jsonl and OUT/DOMAIN; what is there is left alone, what was stopped goes on. With `--start`
each adapter trains on from EARLIER/DOMAIN.
"""

from pathlib import Path

import torch
import typer

from adapters.exams import EXAMS
from adapters.lora import LoraConfig
from adapters.pretraining.questions import write_questions
from adapters.training import TrainSettings, train

QUESTIONS = 20_000


def main(
    base: str,
    out: Path,
    steps: int = 600,
    domains: str = ",".join(EXAMS),
    learning_rate: float = 3e-3,
    threads: int = 1,
    start: Path | None = None,
    seed: int = 0,
) -> None:
    torch.set_num_threads(threads)
    (out / "questions").mkdir(parents=True, exist_ok=True)
    settings = TrainSettings(
        lora=LoraConfig(rank=16, alpha=32), steps=steps, learning_rate=learning_rate, batch_rows=2, held_out=0.005,
        evaluate_every=max(1, steps // 8), patience=8, checkpoint_every=max(1, steps // 8),
        seed=seed,
    )  # fmt: skip
    for domain in domains.split(","):
        if (out / domain).exists():
            continue
        data = out / "questions" / f"{domain}.jsonl"
        if not data.exists():
            write_questions(domain, data, QUESTIONS)
        manifest = train(base, data, domain, out / domain, settings, start / domain if start else None)
        print(f"{domain}: held-out loss {manifest['held_out_loss']}, {manifest['seconds']} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
