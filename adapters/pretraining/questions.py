"""Write training questions of the domains' exams as JSONL, for `zephyra adapters train`.

    python -m adapters.pretraining.questions OUT [--count 20000] [--seed 0]

One file per domain, `prompt` and `response` a line; every combination is of the training split.
"""

import itertools
import json
from pathlib import Path

import typer

from adapters.exams import EXAMS, questions


def write_questions(domain: str, path: Path, count: int, seed: int = 0) -> None:
    """`count` different training questions of `domain`."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        for question in itertools.islice(questions(EXAMS[domain], "train", seed), count):
            file.write(json.dumps({"prompt": question.prompt, "response": question.answer}) + "\n")
    part.replace(path)


def main(out: Path, count: int = 20_000, seed: int = 0) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for domain in EXAMS:
        write_questions(domain, out / f"{domain}.jsonl", count, seed)
        print(f"{domain}: {count} questions", flush=True)


if __name__ == "__main__":
    typer.run(main)
