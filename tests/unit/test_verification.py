"""The proof that an adapter differs from the base, against engines that answer this and that."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.errors import EngineUnavailable
from server.verification import VerificationFailed, distance, verify

Answer = Callable[[str, int], tuple[int, Any]]


class Scripted:
    """What verification needs of an engine; `answer` gets the model and the number of the call."""

    base_name = "base"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.calls = 0

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        yield

    async def ask(self, path: str, payload: dict[str, Any]) -> tuple[int, bytes]:
        self.calls += 1
        status, answer = self.answer(payload["model"], self.calls)
        return status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def completion(values: dict[str, float | None] | None) -> tuple[int, Any]:
    return 200, {"choices": [{"text": "x", "logprobs": {"top_logprobs": [values]}}]}


async def proof(answer: Answer) -> float:
    return await verify(Scripted(answer), "legal@1", "base")  # type: ignore[arg-type]


async def test_a_clear_difference_passes() -> None:
    found = await proof(lambda model, _: completion({"a": -1.0 if model == "base" else -1.5, "b": -2.0}))
    assert found == pytest.approx(0.5)


async def test_other_tokens_altogether_pass() -> None:
    assert await proof(lambda model, _: completion({model: -1.0})) == float("inf")


async def test_equal_to_the_base_fails() -> None:
    with pytest.raises(VerificationFailed, match="answers as the base"):
        await proof(lambda model, _: completion({"a": -1.0, "b": -2.0}))


async def test_a_difference_within_the_bases_own_noise_fails() -> None:
    with pytest.raises(VerificationFailed, match="answers as the base"):
        await proof(lambda model, call: completion({"a": -1.0 - 0.01 * (call % 3)}))


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (completion({"a": None}), "not numbers"),
        ((200, b'{"choices": [{"text": "", "logprobs": {"top_logprobs": [{"a": NaN}]}}]}'), "cannot be read"),
        (completion(None), "no log-probabilities"),
        ((200, {"choices": []}), "gave no answer"),
        ((200, {"choices": [{"text": ""}]}), "came back empty"),
        ((400, b"bad"), "answers 400 under legal@1: bad"),
    ],
)
async def test_broken_answers_fail(answer: tuple[int, Any], finding: str) -> None:
    with pytest.raises(VerificationFailed, match=finding):
        await proof(lambda model, _: answer)


@pytest.mark.parametrize("status", [404, 503, 500])
async def test_an_engine_in_trouble_blames_no_adapter(status: int) -> None:
    with pytest.raises(EngineUnavailable):
        await proof(lambda model, _: (status, b""))


async def test_an_engine_that_fails_for_this_adapter_only_blames_it() -> None:
    with pytest.raises(VerificationFailed, match="answers 500"):
        await proof(lambda model, _: completion({"a": -1.0}) if model == "base" else (500, b"boom"))


def test_distance() -> None:
    assert distance({"a": -1.0, "b": -2.0}, {"a": -1.25, "c": -9.0}) == 0.25
    assert distance({}, {"a": -1.0}) == float("inf")
