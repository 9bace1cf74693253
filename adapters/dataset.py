"""Training data: JSONL of `prompt`/`response` or `messages`, through the base's chat template, packed into rows."""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # the label that the loss skips


class DataError(ValueError):
    """The data file is not usable; the message names the line and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: token ids, and labels that are `IGNORED` everywhere but in the assistant's answers."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def read_conversations(path: Path) -> list[list[dict[str, str]]]:
    """The conversations of a JSONL file. Raises `DataError` with the line's number."""
    conversations = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number} is not JSON: {error}") from None
            conversations.append(_messages(row, f"{path}:{number}"))
    if not conversations:
        raise DataError(f"{path} holds no example: write one JSON object a line")
    return conversations


def _messages(row: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object")
    if isinstance(row.get("prompt"), str) and isinstance(row.get("response"), str):
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where} needs either `prompt` and `response` (strings) or `messages` (a list)")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise DataError(f"{where}: each message needs `role` and `content`, both strings")
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where} has no assistant message to learn from")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def encode(messages: Sequence[dict[str, str]], tokenizer: Any, longest: int) -> Example | None:
    """One conversation, loss on the assistant's turns alone; None if the answers lie past `longest` tokens.

    An answer's span runs from the template's generation prompt to the end of its turn, end token included. Raises
    `DataError` for a template that rewrites earlier turns, where no such span exists.
    """
    whole: str = tokenizer.apply_chat_template(list(messages), tokenize=False)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            before = tokenizer.apply_chat_template(list(messages[:index]), tokenize=False, add_generation_prompt=True)
            after = tokenizer.apply_chat_template(list(messages[: index + 1]), tokenize=False)
            if whole.startswith(after) and after.startswith(before):
                spans.append((len(before), len(after)))
            elif index == len(messages) - 1:
                raise DataError("the base's chat template rewrites earlier turns: give one turn per example")
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"][:longest]
    labels = [
        token if any(start <= begin and end <= stop and end > begin for start, stop in spans) else IGNORED
        for token, (begin, end) in zip(ids, encoded["offset_mapping"], strict=False)
    ]
    if all(label == IGNORED for label in labels):
        return None
    return Example(tuple(ids), tuple(labels))


def split(conversations: Iterable[Any], share: float) -> tuple[list[Any], list[Any]]:
    """(train, held out), decided by a hash of each conversation, so that growing the file moves nothing across."""
    train: list[Any] = []
    held_out: list[Any] = []
    for conversation in conversations:
        digest = hashlib.blake2b(json.dumps(conversation, sort_keys=True).encode(), digest_size=4).digest()
        (held_out if int.from_bytes(digest) / 2**32 < share else train).append(conversation)
    return train, held_out


def pack(examples: Sequence[Example], length: int, rng: random.Random) -> list[list[Example]]:
    """Rows of examples, each at most `length` tokens in all: shuffled, then first fit among the last rows."""
    order = list(examples)
    rng.shuffle(order)
    rows: list[list[Example]] = []
    room: list[int] = []
    for example in order:
        for index in range(max(0, len(rows) - 16), len(rows)):
            if room[index] >= len(example.ids):
                break
        else:
            index = len(rows)
            rows.append([])
            room.append(length)
        rows[index].append(example)
        room[index] -= len(example.ids)
    rng.shuffle(rows)
    return rows


def collate(rows: Sequence[Sequence[Example]], pad: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """A batch: `input_ids`, `labels`, `position_ids` [rows, length]; `attention_mask` [rows, 1, length, length].

    The mask is additive (0 or the dtype's minimum) and lets a token see earlier tokens of its own example only, so that
    packing changes nothing but speed.
    """
    length = max(sum(len(example.ids) for example in row) for row in rows)
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), IGNORED)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    owner = torch.arange(length).repeat(len(rows), 1) + len(rows) * length  # padding belongs to nobody else
    for number, row in enumerate(rows):
        start = 0
        for index, example in enumerate(row):
            stop = start + len(example.ids)
            ids[number, start:stop] = torch.tensor(example.ids)
            # The first token of an example is never predicted from the example before it.
            labels[number, start:stop] = torch.tensor((IGNORED, *example.labels[1:]))
            positions[number, start:stop] = torch.arange(len(example.ids))
            owner[number, start:stop] = index
            start = stop
    same = owner.unsqueeze(2) == owner.unsqueeze(1)
    visible = same & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)
    batch = {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask}
    return {key: value.to(device) for key, value in batch.items()}
