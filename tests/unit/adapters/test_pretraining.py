"""The base's corpus, tokenizer and optimiser."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.pretraining.base import batches, encode, schedule
from adapters.pretraining.corpus import Document, documents
from adapters.pretraining.muon import Muon, orthogonalize


def test_documents_repeat_by_seed() -> None:
    first, again, other = (list(itertools.islice(documents(seed), 200)) for seed in (3, 3, 4))
    assert first == again != other
    assert all(bool(document.text) != bool(document.messages) for document in first)


def test_batches_are_padded_and_bounded(tokenizer: Any) -> None:
    for ids, labels in itertools.islice(batches(tokenizer, 1024, 0), 12):
        assert ids.shape == labels.shape
        assert ids.numel() <= 1024 or ids.shape[0] == 1
        kept = labels != -100
        assert torch.equal(ids[kept], labels[kept])
        assert not bool(kept[ids == tokenizer.pad_token_id].any())
        assert bool((ids[:, 0] == tokenizer.bos_token_id).all())


def test_only_the_answers_of_exercises_are_learned_from(tokenizer: Any) -> None:
    messages = tuple(
        {"role": role, "content": text}
        for role, text in (("user", "Copy a b"), ("assistant", "a b"), ("user", "Count: x"), ("assistant", "1 x. 1."))
    )
    example = encode(Document(messages=messages, answers_only=True), tokenizer)
    assert tokenizer.decode([label for label in example.labels if label != -100]) == "a b<|end|>1 x. 1.<|end|>"
    whole = encode(Document(messages=messages), tokenizer)
    assert whole.ids == whole.labels == example.ids


@given(st.text(max_size=60))
def test_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    plain = text.replace("<|", "< |")
    assert tokenizer.decode(tokenizer(plain, add_special_tokens=False)["input_ids"]) == plain


def test_digits_are_single_tokens(tokenizer: Any) -> None:
    assert tokenizer.tokenize("40821") == list("40821")


def test_chat_template(tokenizer: Any) -> None:
    chat = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
    ]
    whole = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert whole == "<|begin|><|system|>a<|end|><|user|>bc<|end|><|assistant|>"
    with pytest.raises(Exception, match="roles are"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    assert 0 < schedule(0) < 0.1
    assert schedule(0.3) == 1
    assert schedule(1) == 0
    assert schedule(0.9) < schedule(0.8)


def test_muon_makes_singular_values_near_one_and_descends() -> None:
    torch.manual_seed(0)
    for shape in ((3, 20, 20), (2, 16, 40), (2, 40, 16)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.2
        assert values.max() < 1.4
    weight = torch.nn.Parameter(torch.randn(8, 8))
    target, optimizer = torch.randn(8, 8), Muon([weight], lr=0.05)
    before = float((weight.detach() - target).norm())
    for _ in range(200):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float((weight.detach() - target).norm()) < 0.2 * before
