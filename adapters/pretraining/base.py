"""Train the shipped base from scratch on generated text and write it in Hugging Face's format.

    python -m adapters.pretraining.base OUT --minutes 60        (resumes from OUT.checkpoint if that is there)

The schedule follows the larger of the two used-up shares, minutes and tokens: warm-up, plateau, linear decay over the
last third. OUT appears by rename when training has ended; `--finish` writes it from the last checkpoint as it is.
"""

import itertools
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.dataset import IGNORED, Example
from adapters.pretraining.corpus import Document, documents
from adapters.pretraining.muon import Muon
from adapters.pretraining.tokenizer import ASSISTANT, make_tokenizer, train_tokenizer

TOKENIZER_DOCUMENTS = 12_000
POOL = 512  # documents sorted by length at a time, so that a batch needs little padding
LONGEST = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """The base's size and how it is trained."""

    vocabulary: int = 1536
    hidden: int = 256
    intermediate: int = 704
    layers: int = 5
    heads: int = 8
    batch_tokens: int = 2048
    matrix_lr: float = 6e-3
    other_lr: float = 4e-3
    seed: int = 0


def make_config(shape: Shape, tokenizer: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )


def encode(document: Document, tokenizer: Any) -> Example:
    """A document's tokens: raw texts between the begin and end tokens, chats through the template."""
    if document.messages:
        text = tokenizer.apply_chat_template(list(document.messages), tokenize=False)
    else:
        text = f"{tokenizer.bos_token}{document.text}{tokenizer.eos_token}"
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"][:LONGEST]
    if not document.answers_only:
        return Example(tuple(ids), tuple(ids))
    assistant, labels, answering = tokenizer.convert_tokens_to_ids(ASSISTANT), [], False
    for token in ids:
        labels.append(token if answering else IGNORED)
        answering = (answering or token == assistant) and token != tokenizer.eos_token_id
    return Example(tuple(ids), tuple(labels))


def batches(tokenizer: Any, batch_tokens: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, labels), each [rows, length], padded on the right; labels are -100 where nothing is learned."""
    rng = random.Random(seed)
    stream = (encode(document, tokenizer) for document in documents(seed))
    while True:
        pool = sorted(itertools.islice(stream, POOL), key=lambda example: len(example.ids))
        groups: list[list[Example]] = [[]]
        for example in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(example.ids) > batch_tokens:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            length = max(len(example.ids) for example in group)
            ids = torch.full((len(group), length), tokenizer.pad_token_id)
            labels = torch.full((len(group), length), IGNORED)
            for row, example in enumerate(group):
                ids[row, : len(example.ids)] = torch.tensor(example.ids)
                labels[row, : len(example.ids)] = torch.tensor(example.labels)
            yield ids, labels


def schedule(used: float) -> float:
    """Share of the peak learning rate when `used` of the budget (0 to 1) is spent."""
    return min(1.0, used / 0.02 + 0.05, max(0.0, (1 - used) / 0.35))


class Run:
    """Model, optimisers and counts of one training, with checkpoints replaced atomically."""

    def __init__(self, directory: Path, shape: Shape, tokenizer: Any) -> None:
        torch.manual_seed(shape.seed)
        self.checkpoint = directory.with_name(directory.name + ".checkpoint")
        self.directory, self.shape, self.tokenizer = directory, shape, tokenizer
        self.model = LlamaForCausalLM(make_config(shape, tokenizer))
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim != 2 or "embed" in n]
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (Muon(matrices, lr=shape.matrix_lr, weight_decay=0.05), shape.matrix_lr),
            (torch.optim.AdamW(others, lr=shape.other_lr, betas=(0.9, 0.95), weight_decay=0.0), shape.other_lr),
        ]
        self.step, self.tokens, self.seconds, self.loss = 0, 0, 0.0, 0.0
        # What the base that this one started from had been trained for.
        self.before: dict[str, float] = {}

    def save(self) -> None:
        state = {
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "counts": (self.step, self.tokens, self.seconds, self.loss),
            "before": self.before,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        # The one that the weights were trained with, even if the corpus has changed since.
        self.tokenizer = make_tokenizer(Tokenizer.from_str(state["tokenizer"]))
        self.model.load_state_dict(state["model"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.seconds, self.loss = state["counts"]
        self.before = state["before"]

    def start(self, base: Path) -> None:
        """Take another base's weights, tokenizer and counts; the schedule begins anew."""
        self.tokenizer = make_tokenizer(Tokenizer.from_file(str(base / "tokenizer.json")))
        self.model.load_state_dict(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict())
        trained = json.loads((base / "training.json").read_text())
        self.before = {key: trained[key] for key in ("steps", "tokens", "minutes")}

    def train_step(self, ids: Tensor, labels: Tensor, share: float) -> float:
        loss: Tensor = self.model(input_ids=ids, labels=labels).loss
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def publish(self) -> None:
        """Write the bf16 model, tokenizer, template and generation settings; the directory appears whole."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.directory.parent) as work:
            whole = Path(work) / "base"
            # The most likely token unless a request asks otherwise; vLLM reads this, too.
            self.model.generation_config.update(do_sample=True, top_k=1, eos_token_id=self.tokenizer.eos_token_id)
            self.model.to(torch.bfloat16).save_pretrained(whole)
            self.tokenizer.save_pretrained(whole)
            figures = {
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "steps": self.step,
                "tokens": self.tokens,
                "minutes": round(self.seconds / 60, 1),
                "loss": round(self.loss, 4),
                "before": self.before,
                "shape": asdict(self.shape),
            }
            (whole / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
            if self.directory.exists():
                shutil.rmtree(self.directory)
            os.rename(whole, self.directory)


def main(
    out: Path,
    minutes: float = 60.0,
    tokens: int = 10**12,
    layers: int = Shape().layers,
    finish: bool = False,
    threads: int = 1,
    start: Path | None = None,
) -> None:
    """Train until `minutes` or `tokens` are spent, earlier sittings counted in; `start` is a base to train on from."""
    torch.set_num_threads(threads)
    shape = Shape(layers=layers)
    sample = itertools.islice(documents(shape.seed + 1), TOKENIZER_DOCUMENTS)
    texts = ["\n".join([d.text, *(m["content"] for m in d.messages)]) for d in sample]
    run = Run(out, shape, train_tokenizer(texts, shape.vocabulary))
    if run.checkpoint.exists():
        run.resume()
    elif start:
        run.start(start)
    used = 0.0
    began = saved = time.monotonic()
    before = run.seconds
    stream = batches(run.tokenizer, shape.batch_tokens, seed=shape.seed + run.step)
    while not finish and used < 1:
        run.seconds = before + time.monotonic() - began
        used = max(run.seconds / 60 / minutes, run.tokens / tokens)
        ids, labels = next(stream)
        loss = run.train_step(ids, labels, schedule(used))
        run.step += 1
        run.tokens += int((labels >= 0).sum())
        run.loss = loss if run.step == 1 else 0.98 * run.loss + 0.02 * loss
        if run.step % 20 == 0:
            print(
                f"step {run.step} tokens {run.tokens:,} loss {loss:.3f} mean {run.loss:.3f} "
                f"{run.tokens / run.seconds:.0f} tokens/s {used:.1%}",
                flush=True,
            )
        if time.monotonic() - saved > 120:
            run.save()
            saved = time.monotonic()
    run.save()
    run.publish()


if __name__ == "__main__":
    typer.run(main)
