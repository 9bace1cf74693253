"""Proof on the engine that an adapter answers, and that it differs from the base.

An adapter whose modules match nothing loads without a word and answers as the base. So the log-probabilities of the
first token are compared with the base's on a few prompts; the base is asked twice, and what differs between its own
two answers counts as noise.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from adapters.quality import Item, Result
from server.engine import Engine
from server.errors import EngineUnavailable

PATH = "/v1/completions"
CHAT_PATH = "/v1/chat/completions"
# How long an answer to an exam's question may be, in tokens.
ANSWER_TOKENS = 128
PROMPTS = (
    "Question: What should I do first?\nAnswer:",
    "Write a short reply to this message: my order has not arrived.\n",
    "The patient was given a dose of",
    "SELECT name FROM customers WHERE",
)
TOP = 5
# Natural-log units; bf16 rounds finer than this near zero, so smaller is no difference.
LEAST_DIFFERENCE = 1e-4
NOISE_FACTOR = 3.0


Reply = TypeVar("Reply", "_Completion", "_Chat")


class VerificationFailed(Exception):
    """The engine answers wrongly, or as the base, under the adapter; the text says which."""


class _Logprobs(msgspec.Struct):
    top_logprobs: list[dict[str, float | None] | None] = []


class _Choice(msgspec.Struct):
    text: str
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Message(msgspec.Struct):
    content: str | None = None


class _Spoken(msgspec.Struct):
    message: _Message


class _Chat(msgspec.Struct):
    choices: list[_Spoken]


async def verify(engine: Engine, name: str, base: str) -> float:
    """Check the adapter `name` against the base under the engine-side name `base`; returns the largest difference.

    Raises `VerificationFailed`, and `EngineUnavailable` where nothing can be said.
    """
    smoke = await _complete(engine, name, PROMPTS[0], max_tokens=8)
    if not smoke.text and smoke.logprobs is None:
        raise VerificationFailed("the smoke generation under the adapter came back empty")
    differences = []
    for prompt in PROMPTS:
        adapted = _first_token(await _complete(engine, name, prompt), name)
        first = _first_token(await _complete(engine, base, prompt), base)
        second = _first_token(await _complete(engine, base, prompt), base)
        difference, noise = distance(adapted, first), distance(first, second)
        differences.append(difference if difference > max(LEAST_DIFFERENCE, NOISE_FACTOR * noise) else 0.0)
    if sum(difference > 0 for difference in differences) * 2 < len(PROMPTS):
        raise VerificationFailed(
            "the engine answers as the base under this adapter (the first token's log-probabilities are equal): its "
            "modules match nothing in the base, or it was never trained"
        )
    return max(differences)


async def examine(engine: Engine, name: str, items: Sequence[Item]) -> Result:
    """Ask each question under the adapter `name`, as a chat's first turn. Raises as `verify` does."""
    passed = 0
    for item in items:
        body = {"model": name, "messages": [{"role": "user", "content": item.prompt}], "max_tokens": ANSWER_TOKENS}
        answer = await _ask(engine, name, CHAT_PATH, {**body, "temperature": 0}, _Chat)
        passed += item.passes(answer.choices[0].message.content or "")
    return Result(passed, len(items))


async def answers(engine: Engine) -> bool:
    """Whether the engine answers at all: one that is going down says 500 to everything, and blames no adapter."""
    status, _ = await engine.ask(PATH, {"model": engine.base_name, "prompt": PROMPTS[0], "max_tokens": 1})
    return status == 200


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest difference over the tokens both name; infinite where they share none."""
    common = one.keys() & other.keys()
    return max((abs(one[token] - other[token]) for token in common), default=math.inf)


def _first_token(choice: _Choice, name: str) -> dict[str, float]:
    tops = choice.logprobs.top_logprobs if choice.logprobs else []
    if not tops or tops[0] is None:
        raise VerificationFailed(f"the engine gave no log-probabilities under {name}")
    values = {token: value for token, value in tops[0].items() if value is not None}
    if len(values) < len(tops[0]) or not all(math.isfinite(value) for value in values.values()):
        raise VerificationFailed(f"the log-probabilities under {name} are not numbers: its weights are broken")
    return values


async def _complete(engine: Engine, name: str, prompt: str, max_tokens: int = 1) -> _Choice:
    body = {"model": name, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": TOP}
    return (await _ask(engine, name, PATH, body, _Completion)).choices[0]


async def _ask(engine: Engine, name: str, path: str, body: dict[str, Any], kind: type[Reply]) -> Reply:
    """The engine's answer, with at least one choice."""
    with engine.counted(name):
        status, content = await engine.ask(path, body)
    if status in (404, 503) or (status >= 500 and not await answers(engine)):
        raise EngineUnavailable(f"The engine does not answer under {name} now: {status}.")
    if status != 200:
        text = content[:300].decode(errors="replace")
        raise VerificationFailed(f"the engine answers {status} under {name}: {text}")
    try:
        answer = msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise VerificationFailed(f"the engine's answer under {name} cannot be read: {error}") from None
    if not answer.choices:
        raise VerificationFailed(f"the engine gave no answer under {name}")
    return answer
