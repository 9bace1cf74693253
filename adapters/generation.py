"""Greedy answers from a base with adapters on it, in this process: what the engine does, without an engine."""

from collections.abc import Sequence
from pathlib import Path

import torch

from adapters import files, lora
from adapters.evaluation import BASE

BATCH = 64


class LocalModels:
    """A base and adapters from directories, each asked by its name; `base` is the base alone."""

    def __init__(
        self,
        base: str,
        adapters: dict[str, Path],
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.tokenizer = files.load_base(base, device, dtype)
        self.device = device
        for name, directory in adapters.items():
            files.load_adapter(self.model, directory, name)
        self.names = (BASE, *adapters)

    @torch.no_grad()
    def answer(self, name: str, prompts: Sequence[str], max_tokens: int = 96) -> list[str]:
        """Each prompt's greedy answer as a first user turn, special tokens left out."""
        self.activate(name)
        answers: list[str] = []
        for start in range(0, len(prompts), BATCH):
            answers += self._batch(prompts[start : start + BATCH], max_tokens)
        return answers

    def activate(self, name: str) -> None:
        if name != BASE or any(True for _ in lora.layers(self.model)):
            lora.activate(self.model, None if name == BASE else name)

    def _batch(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        encoded = self.tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt",
            return_token_type_ids=False,
        ).to(self.device)  # fmt: skip
        generate = self.model.generate
        assert callable(generate)
        out = generate(
            **encoded, do_sample=False, max_new_tokens=max_tokens, pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )  # fmt: skip
        new = out[:, encoded["input_ids"].shape[1] :]
        answers: list[str] = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return answers
