"""A random base small enough for unit tests, with a real tokenizer and chat template."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.pretraining.tokenizer import train_tokenizer

WORDS = "red green blue one two three four big small cat dog bird tree house what color is the answer".split()  # noqa: SIM905

NUMBERS = ("one", "two", "three", "four")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums in the same order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer([" ".join(WORDS)] * 50, 400)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A saved two-layer Llama, hidden size 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.1, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty little questions with one right answer each."""
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    colors = {"cat": "red", "dog": "green", "bird": "blue"}
    rows = [
        {"prompt": f"what color is the {size} {animal} {number}", "response": f"the answer is {color}"}
        for size in ("big", "small")
        for number in [*NUMBERS, *(f"{number} two" for number in NUMBERS), "one four", "two four"]
        for animal, color in colors.items()
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path
