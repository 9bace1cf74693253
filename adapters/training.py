"""Train one LoRA adapter on any Hugging Face causal language model with a chat template, on a CPU or a GPU.

OUT appears by rename when everything in it is written, the manifest last. Until then the work is in OUT.training, whose
one checkpoint file is replaced atomically; the same call continues from it, bit for bit as if it had never stopped.
"""

import hashlib
import json
import math
import os
import random
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from adapters import dataset, files, lora
from adapters.dataset import Example
from adapters.lora import LoraConfig
from adapters.validation import base_digest, validate

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train. Lengths in tokens; `steps` are optimiser steps of `batch_rows * accumulation` packed rows."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    qlora: bool = False
    steps: int = 600
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    batch_rows: int = 8
    accumulation: int = 1
    row_length: int = 256
    held_out: float = 0.05
    evaluate_every: int = 100
    patience: int = 5
    checkpoint_every: int = 50
    seed: int = 0
    device: str = ""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_rows",
            "accumulation",
            "row_length",
            "evaluate_every",
            "patience",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 <= self.held_out < 1:
            raise ValueError("held_out is a share: at least 0 and below 1")


def train(
    base: str, data: Path, domain: str, out: Path, settings: TrainSettings | None = None, start: Path | None = None
) -> dict[str, Any]:
    """Train an adapter for `domain` on `data` (JSONL) and publish it as directory `out`; returns its manifest.

    `start` is an adapter of the same shape to train on from, instead of from nothing.

    Raises `FileExistsError` if `out` is there, `DataError` for bad data, `ValueError` for a base or settings that do
    not fit, `adapters.validation.AdapterError` where the result could not be served.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: adapters are not overwritten, choose another directory")
    settings = settings or TrainSettings()
    trainer = Trainer(base, data, domain, out, settings, start)
    trainer.resume()
    trainer.run()
    return trainer.publish()


class Trainer:
    """Model, data and counts of one training."""

    def __init__(
        self, base: str, data: Path, domain: str, out: Path, settings: TrainSettings, start: Path | None = None
    ) -> None:
        self.base, self.data, self.domain, self.out, self.settings = base, data, domain, out, settings
        self.work = out.with_name(out.name + ".training")
        self.device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.tokenizer = files.load_base(base, self.device)
        self.dtype: torch.dtype = next(self.model.parameters()).dtype
        if settings.qlora:
            from adapters.quantization import quantize_nf4

            quantize_nf4(self.model)
        torch.manual_seed(settings.seed)
        lora.inject(self.model, settings.lora)
        self.start_digest = file_digest(start / files.WEIGHTS) if start else None
        if start:
            lora.load_adapter_state(self.model, load_file(start / files.WEIGHTS))
        self.parameters = lora.trainable(self.model)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        self.train_set, self.eval_set = self._read()
        self.order = Order(self.train_set, settings)
        self.step, self.tokens, self.seconds, self.stale = 0, 0, 0.0, 0
        self.best_loss, self.best_state = math.inf, dict[str, Tensor]()
        self.history: list[dict[str, float]] = []
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()

    def _read(self) -> tuple[list[Example], list[Example]]:
        train, held_out = dataset.split(dataset.read_conversations(self.data), self.settings.held_out)
        encoded = [
            [e for m in part if (e := dataset.encode(m, self.tokenizer, self.settings.row_length))]
            for part in (train, held_out)
        ]
        if not encoded[0]:
            raise dataset.DataError(f"{self.data}: no answer begins within {self.settings.row_length} tokens")
        return encoded[0], encoded[1]

    def run(self) -> None:
        """Train to the last step, or until the held-out loss has not improved for `patience` evaluations."""
        settings = self.settings
        began, before = time.monotonic(), self.seconds
        with tqdm(total=settings.steps, initial=self.step, desc=f"train {self.domain}", mininterval=5) as bar:
            while self.step < settings.steps and self.stale < settings.patience:
                loss = self._train_step()
                self.step += 1
                self.seconds = before + time.monotonic() - began
                bar.update()
                if self.step % settings.evaluate_every == 0 or self.step == settings.steps:
                    self._evaluate(loss)
                bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{self.best_loss:.4f}", refresh=False)
                if self.step % settings.checkpoint_every == 0:
                    self.save()

    def _train_step(self) -> float:
        settings = self.settings
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(self.step / settings.steps, settings.warmup)
        batches = [
            dataset.collate(rows, self.tokenizer.pad_token_id, self.dtype, self.device)
            for rows in self.order.rows(self.step)
        ]
        answers = sum(int((batch["labels"][:, 1:] != dataset.IGNORED).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = answer_loss(self.model, batch) / max(answers, 1)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            self.tokens += batch["input_ids"].numel()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _evaluate(self, train_loss: float) -> None:
        held_out = (
            evaluate_loss(self.model, self.tokenizer, self.eval_set, self.settings) if self.eval_set else train_loss
        )
        self.history.append(
            {"step": self.step, "train_loss": round(train_loss, 5), "held_out_loss": round(held_out, 5)}
        )
        if held_out < self.best_loss:
            self.best_loss, self.stale = held_out, 0
            self.best_state = {key: value.clone() for key, value in lora.adapter_state(self.model).items()}
        else:
            self.stale += 1

    def save(self) -> None:
        """Replace the checkpoint atomically."""
        self.work.mkdir(parents=True, exist_ok=True)
        state = {
            "key": self._key(),
            "adapter": lora.adapter_state(self.model),
            "best": self.best_state,
            "optimizer": self.optimizer.state_dict(),
            "counts": (self.step, self.tokens, self.seconds, self.stale, self.best_loss),
            "history": self.history,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.startswith("cuda") else [],
        }
        part = self.work / f"{CHECKPOINT}.part"
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.work / CHECKPOINT)

    def resume(self) -> bool:
        """Continue from a checkpoint of the very same training; any other is refused with `ValueError`."""
        path = self.work / CHECKPOINT
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        if state["key"] != self._key():
            raise ValueError(
                f"{self.work} holds a training with other data or settings: delete it or choose another OUT"
            )
        lora.load_adapter_state(self.model, state["adapter"])
        self.best_state, self.history = state["best"], state["history"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens, self.seconds, self.stale, self.best_loss = state["counts"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return True

    def _key(self) -> str:
        parts: list[Any] = [
            self.base,
            base_digest(self.base),
            file_digest(self.data),
            self.domain,
            asdict(self.settings),
        ]
        parts.append(self.start_digest)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def publish(self) -> dict[str, Any]:
        """Write the best adapter and its manifest into the work directory, check it, and rename it to `out`."""
        if self.best_state:
            lora.load_adapter_state(self.model, self.best_state)
        whole = self.work / "adapter"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir(parents=True)
        files.save_adapter(self.model, self.settings.lora, whole, self.base)
        if not self.settings.lora.dora:
            validate(whole, base=self.base)
        manifest = self.manifest(whole)
        (whole / files.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        os.rename(whole, self.out)
        shutil.rmtree(self.work)
        return manifest

    def manifest(self, whole: Path) -> dict[str, Any]:
        cuda = self.device.startswith("cuda")
        return {
            "domain": self.domain,
            "base": Path(self.base).name if Path(self.base).is_dir() else self.base,
            "base_digest": base_digest(self.base),
            "data_digest": file_digest(self.data),
            "started_from": self.start_digest,
            "examples": {"train": len(self.train_set), "held_out": len(self.eval_set)},
            "settings": asdict(self.settings),
            "trainable_parameters": sum(p.numel() for p in self.parameters),
            "bytes": (whole / files.WEIGHTS).stat().st_size,
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "peak_gpu_bytes": torch.cuda.max_memory_allocated() if cuda else None,
            "held_out_loss": None if math.isinf(self.best_loss) else round(self.best_loss, 5),
            "history": self.history,
        }


class Order:
    """Which packed rows belong to which step: a function of the seed alone, so that a resumed run sees the same."""

    def __init__(self, examples: list[Example], settings: TrainSettings) -> None:
        self.examples, self.settings = examples, settings
        self.epoch, self.packed, self.first = -1, list[list[Example]](), 0
        self._next(0)

    def _next(self, first: int) -> None:
        """Pack the next epoch, whose first row has the number `first` over all epochs."""
        self.epoch, self.first = self.epoch + 1, first
        rng = random.Random(f"{self.settings.seed}/{self.epoch}")
        self.packed = dataset.pack(self.examples, self.settings.row_length, rng)

    def row(self, number: int) -> list[Example]:
        if number < self.first:
            self.epoch = -1
            self._next(0)
        while number >= self.first + len(self.packed):
            self._next(self.first + len(self.packed))
        return self.packed[number - self.first]

    def rows(self, step: int) -> list[list[list[Example]]]:
        """One list of rows for each micro-batch of `step`."""
        size, parts = self.settings.batch_rows, self.settings.accumulation
        first = step * size * parts
        return [[self.row(first + part * size + index) for index in range(size)] for part in range(parts)]


def rate(used: float, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to a twentieth."""
    if used < warmup:
        return (used + 1e-3) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (used - warmup) / (1 - warmup)))


def answer_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy summed over the answers' tokens."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=dataset.IGNORED)
    logits: Tensor = model(**inputs, use_cache=False).logits
    chosen = targets != dataset.IGNORED
    return torch.nn.functional.cross_entropy(logits[chosen].float(), targets[chosen], reduction="sum")


@torch.no_grad()
def evaluate_loss(model: nn.Module, tokenizer: Any, examples: list[Example], settings: TrainSettings) -> float:
    """Mean cross-entropy per answer token over `examples`."""
    model.eval()
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    rows = dataset.pack(examples, settings.row_length, random.Random(0))
    total, answers = 0.0, 0
    for start in range(0, len(rows), settings.batch_rows):
        batch = dataset.collate(
            rows[start : start + settings.batch_rows], tokenizer.pad_token_id, parameter.dtype, str(parameter.device)
        )
        total += float(answer_loss(model, batch))
        answers += int((batch["labels"] != dataset.IGNORED).sum())
    return total / max(answers, 1)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
