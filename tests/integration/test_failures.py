"""Bad input and bad engines: each has a status of its own, in OpenAI's shape, and nothing leaks."""

import json
from typing import Any

import httpx
import openai
import pytest

from server.app import create_app
from server.settings import load
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import PROMPTS
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until

MESSAGES = '"messages": [{"role": "user", "content": "hi"}]'


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The error object; fails unless the answer has OpenAI's shape and shows no traceback."""
    assert "Traceback" not in reply.text
    error = reply.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]
    return dict(error)


@pytest.mark.parametrize(
    ("content", "status", "param"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b"[]", 400, None),
        (b'"text"', 400, None),
        (b'{"model": "zephyra"}', 400, "messages"),
        (b'{"model": "zephyra", "messages": []}', 400, "messages"),
        (b'{"model": "zephyra", "messages": "hi"}', 400, "messages"),
        (b'{"model": "zephyra", "messages": [1]}', 400, "messages"),
        (b'{"model": "zephyra", "messages": [{"content": "hi"}]}', 400, "messages[0].role"),
        (b'{"model": "zephyra", "messages": [{"role": "user", "content": 5}]}', 400, "messages[0].content"),
        (b'{"model": "zephyra", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400, "messages"),
        (b'{"model": 3, ' + MESSAGES.encode() + b"}", 400, "model"),
        (b'{"stream": "yes", "model": "zephyra", ' + MESSAGES.encode() + b"}", 400, "stream"),
        (b"{" + MESSAGES.encode() + b"}", 400, "model"),
        (b'{"model": "", ' + MESSAGES.encode() + b"}", 404, "model"),
        (b'{"model": "gpt-9", ' + MESSAGES.encode() + b"}", 404, "model"),
        (b'{"model": "../../etc", ' + MESSAGES.encode() + b"}", 404, "model"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, None),
    ],
)
def test_bad_input(http: httpx.Client, fake: FakeEngine, content: bytes, status: int, param: str | None) -> None:
    reply = http.post(CHAT, content=content)
    assert reply.status_code == status
    assert error_of(reply)["param"] == param
    assert fake.requests == []


def test_large_body(http: httpx.Client, fake: FakeEngine) -> None:
    reply = http.post(CHAT, json=body(text="x" * 10_000_000))
    assert reply.status_code == 413
    assert "8388608" in error_of(reply)["message"]
    assert fake.requests == []


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    reply = http.get("/nothing")
    assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")
    reply = http.get(CHAT)
    assert (reply.status_code, error_of(reply)["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


def test_engine_refusal_passes_through(http: httpx.Client, fake: FakeEngine) -> None:
    refusal = json.dumps({"error": {"message": "max_tokens", "type": "BadRequestError", "param": None, "code": 400}})
    fake.failure = (400, refusal.encode())
    reply = http.post(CHAT, json=body())
    assert (reply.status_code, reply.text) == (400, refusal)


def test_engine_failure_is_a_502_without_its_text(http: httpx.Client, fake: FakeEngine) -> None:
    fake.failure = (500, b"Traceback (most recent call last): secret")
    reply = http.post(CHAT, json=body())
    assert reply.status_code == 502
    assert "secret" not in error_of(reply)["message"]


def test_break_before_the_first_byte(http: httpx.Client, fake: FakeEngine) -> None:
    fake.break_after = 0
    for stream in (False, True):
        reply = http.post(CHAT, json=body(stream=stream))
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) > 0
        error_of(reply)


def test_break_in_the_middle_of_a_stream(gateway_url: str, fake: FakeEngine) -> None:
    fake.break_after = 3
    client = openai.OpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": PROMPTS["legal"]}]
    stream = client.chat.completions.create(model="legal", messages=messages, stream=True)
    received: list[Any] = []
    with pytest.raises(openai.APIError, match=r"before its end|broke off"):
        received.extend(stream)
    assert len(received) == 3


def test_lost_adapter_is_loaded_again(http: httpx.Client, fake: FakeEngine) -> None:
    name = http.post(CHAT, json=body("legal")).headers["x-zephyra-adapter"]
    del fake.adapters[name]
    wait_until(lambda: name in fake.adapters)
    wait_until(lambda: http.post(CHAT, json=body("legal")).status_code == 200)
    assert fake.loads.count(name) == 2


def test_engine_away_and_back(http: httpx.Client, fake: FakeEngine) -> None:
    fake.healthy = False
    wait_until(lambda: http.get("/ready").status_code == 503)
    reply = http.post(CHAT, json=body())
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert error_of(reply)["code"] == "engine_unavailable"
    assert http.get("/health").status_code == 200
    fake.adapters.clear()
    fake.healthy = True
    wait_until(lambda: http.get("/ready").status_code == 200)
    assert http.post(CHAT, json=body("legal")).status_code == 200
    assert len(fake.adapters) == 8


def test_refused_adapter_is_named_and_falls_back(http: httpx.Client, fake: FakeEngine) -> None:
    name = http.post(CHAT, json=body("legal")).headers["x-zephyra-adapter"]
    fake.refuse.add(name)
    del fake.adapters[name]
    wait_until(lambda: http.get("/ready").status_code == 503)
    assert "max_lora_rank" in http.get("/ready").text
    reply = http.post(CHAT, json=body("legal"))
    assert (reply.status_code, error_of(reply)["code"]) == (503, "adapter_not_ready")
    reply = http.post(CHAT, json=body(text=PROMPTS["legal"]))
    assert (reply.status_code, reply.headers["x-zephyra-reason"]) == (200, "fallback")
    assert served_by(reply).startswith("zero@")


def test_adapters_of_others_are_left_alone(http: httpx.Client, fake: FakeEngine) -> None:
    fake.adapters["guest"] = "/somewhere"
    fake.adapters["legal@000000000000"] = "/old"
    wait_until(lambda: "legal@000000000000" not in fake.adapters)
    assert "guest" in fake.adapters


def test_two_engines_share_the_work_and_cover_for_each_other(
    configuration: dict[str, dict[str, Any]],
) -> None:
    first, second = FakeEngine(), FakeEngine()
    with Served(first) as one, Served(second) as two:
        configuration["engine"]["urls"] = [one.url, two.url]
        with (
            Served(create_app(load(None, configuration)), lifespan="on") as served,
            httpx.Client(base_url=served.url) as http,
        ):
            wait_until(lambda: http.get("/ready").status_code == 200)
            wait_until(lambda: len(first.adapters) == len(second.adapters) == 8)
            first.healthy = False
            wait_until(lambda: f'zephyra_engine_up{{engine="{one.url}"}} 0.0' in http.get("/metrics").text)
            before = len(first.requests)
            for _ in range(5):
                assert http.post(CHAT, json=body("legal")).status_code == 200
            assert (len(first.requests), len(second.requests)) == (before, 5)
