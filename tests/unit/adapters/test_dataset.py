"""Reading, masking, packing: packing must change nothing but speed."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from adapters import dataset
from adapters.dataset import IGNORED, DataError, Example
from adapters.training import answer_loss

CHAT = [
    {"role": "system", "content": "one"},
    {"role": "user", "content": "what is red"},
    {"role": "assistant", "content": "the cat"},
    {"role": "user", "content": "what is green"},
    {"role": "assistant", "content": "the dog"},
]


def test_loss_is_on_the_answers_alone(tokenizer: Any) -> None:
    example = dataset.encode(CHAT, tokenizer, 200)
    assert example is not None
    learned = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(learned) == "the cat<|end|>the dog<|end|>"
    assert all(label in (IGNORED, token) for token, label in zip(example.ids, example.labels, strict=True))
    assert tokenizer.decode(example.ids) == tokenizer.apply_chat_template(CHAT, tokenize=False)


def test_answers_beyond_the_limit_are_left_out(tokenizer: Any) -> None:
    whole = dataset.encode(CHAT, tokenizer, 200)
    assert whole is not None
    cut = dataset.encode(CHAT, tokenizer, len(whole.ids) - 1)
    assert cut is not None
    assert len(cut.ids) == len(whole.ids) - 1
    assert dataset.encode(CHAT, tokenizer, 4) is None


def test_packed_loss_equals_the_sum_of_single_losses(base: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    texts = [("what is red", "the cat"), ("big dog", "small bird house tree"), ("one two", "three")]
    examples = []
    for prompt, answer in texts:
        example = dataset.encode(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], tokenizer, 100
        )
        assert example is not None
        examples.append(example)

    def loss(rows: list[list[Example]]) -> torch.Tensor:
        return answer_loss(model, dataset.collate(rows, 0, torch.float32, "cpu"))

    alone = sum(loss([[example]]) for example in examples)
    assert isinstance(alone, torch.Tensor)
    assert torch.allclose(loss([examples]), alone, rtol=1e-5)
    assert torch.allclose(loss([examples[:1], examples[1:]]), alone, rtol=1e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 90), st.integers())
def test_packing_keeps_every_example_once(lengths: list[int], room: int, seed: int) -> None:
    examples = [Example((number,) * length, (number,) * length) for number, length in enumerate(lengths)]
    rows = dataset.pack(examples, room, random.Random(seed))
    assert sorted(example.ids for row in rows for example in row) == sorted(example.ids for example in examples)
    assert all(sum(len(example.ids) for example in row) <= room for row in rows)
    assert rows == dataset.pack(examples, room, random.Random(seed))


def test_split_does_not_move_when_the_file_grows() -> None:
    rows = [[{"role": "user", "content": str(number)}] for number in range(400)]
    train, held_out = dataset.split(rows[:200], 0.2)
    more, more_held_out = dataset.split(rows, 0.2)
    assert len(train) + len(held_out) == 200
    assert 20 < len(held_out) < 60
    assert all(row in more_held_out for row in held_out)
    assert all(row in more for row in train)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":2 is not JSON"),
        ("[1]", r":2 is not a JSON object"),
        ('{"prompt": "x"}', r":2 needs either"),
        ('{"prompt": 1, "response": "y"}', r":2 needs either"),
        ('{"messages": []}', r":2 needs either"),
        ('{"messages": [{"role": "user"}]}', r":2: each message"),
        ('{"messages": [{"role": "user", "content": "x"}]}', r":2 has no assistant"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n" + line + "\n")
    with pytest.raises(DataError, match=message):
        dataset.read_conversations(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n\n")
    with pytest.raises(DataError, match="holds no example"):
        dataset.read_conversations(path)
