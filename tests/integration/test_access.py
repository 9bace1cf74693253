"""Access: who may do what, and that a tenant never learns of another's adapter."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from server.app import create_app
from server.keys import Key, digest, write_keys
from server.settings import load
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import DOMAINS, PROMPTS
from tests.integration.test_chat import CHAT, body
from tests.waiting import wait_until

KEYS = {name: f"zk_{name}_0123456789abcdef" for name in ("operator", "tenant", "narrow", "old", "slow", "thrifty")}
OTHERS = [domain for domain in DOMAINS if domain != "legal"]


def entry(name: str, **limits: Any) -> Key:
    return Key(name=name, sha256=digest(KEYS[name]), **limits)


ENTRIES = [
    entry("operator", may_bypass=True, may_observe=True),
    entry("tenant", models=frozenset({"zephyra-resolve", "legal"})),
    entry("narrow", max_body_bytes=2000, max_prompt_bytes=300, max_output_tokens=50),
    entry("old", disabled=True),
    entry("slow", requests_per_minute=2, max_concurrent=1),
    entry("thrifty", tokens_per_minute=20),
]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    write_keys(path, ENTRIES)
    return path


@pytest.fixture
def closed_url(configuration: dict[str, dict[str, Any]], engine_url: str, keys_file: Path) -> Iterator[str]:
    configuration["engine"]["urls"] = [engine_url]
    configuration["access"] = {"keys_file": keys_file}
    with Served(create_app(load(None, configuration)), lifespan="on") as served:
        wait_until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)
        yield served.url


@pytest.fixture
def closed(closed_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=closed_url, timeout=30) as client:
        yield client


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


def test_strangers_are_refused_everywhere(closed: httpx.Client, closed_url: str, fake: FakeEngine) -> None:
    for headers in ({}, {"authorization": "Bearer zk_wrong"}, {"authorization": "Basic x"}, {"x-api-key": "é"}):
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        for method, path in (("POST", CHAT), ("POST", "/v1/messages"), ("GET", "/v1/models"), ("POST", "/v1/route")):
            reply = closed.request(method, path, json=body(), headers=raw)
            assert reply.status_code == 401, (headers, path)
            assert reply.headers["www-authenticate"] == "Bearer"
        assert closed.get("/metrics", headers=raw).status_code == 401
    assert fake.requests == []
    assert closed.get("/health").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{closed_url}/v1", api_key="wrong").models.list()
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=closed_url, api_key="wrong").messages.create(
            model="legal", messages=[{"role": "user", "content": "x"}], max_tokens=5
        )


def test_a_key_opens_both_ways(closed: httpx.Client) -> None:
    assert closed.post(CHAT, json=body(), headers=bearer("operator")).status_code == 200
    assert closed.post(CHAT, json=body(), headers={"x-api-key": KEYS["operator"]}).status_code == 200
    reply = closed.post(CHAT, json=body(), headers=bearer("old"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "not_permitted")


def test_other_models_do_not_exist_for_a_tenant(closed: httpx.Client, fake: FakeEngine) -> None:
    headers = bearer("tenant")
    listed = closed.get("/v1/models", headers=headers).json()["data"]
    assert [card["id"] for card in listed] == ["zephyra-resolve", "legal"]
    version = closed.post(CHAT, json=body("medical"), headers=bearer("operator")).headers["x-zephyra-adapter"]
    fake.requests.clear()
    unknown = closed.post(CHAT, json=body("astrology"), headers=headers)
    for name in ("medical", "zephyra", version, "zero"):
        refused = closed.post(CHAT, json=body(name), headers=headers)
        assert refused.status_code == unknown.status_code == 404
        assert refused.text.replace(name, "astrology") == unknown.text
        assert set(refused.headers) == set(unknown.headers)
        assert closed.get(f"/v1/models/{name}", headers=headers).status_code == 404
    assert fake.requests == []


@pytest.mark.parametrize("domain", OTHERS)
def test_prompts_reach_no_other_adapter(closed: httpx.Client, fake: FakeEngine, domain: str) -> None:
    prompt = body(text=PROMPTS[domain])
    reply = closed.post(CHAT, json=prompt, headers=bearer("tenant"))
    assert reply.status_code == 200
    assert str(fake.requests[-1]["model"]).split("@")[0] in {"zero", "legal"}
    seen = reply.text + json.dumps(dict(reply.headers))
    decision = closed.post("/v1/route", json=prompt, headers=bearer("tenant")).json()
    assert set(decision["scores"]) == {"legal", "general"}
    assert abs(sum(decision["scores"].values()) - 1) < 1e-6
    for other in OTHERS:
        assert f"{other}@" not in seen
        assert other not in json.dumps(decision)


def test_metrics_and_readiness_tell_tenants_nothing(closed: httpx.Client, fake: FakeEngine) -> None:
    assert closed.get("/metrics", headers=bearer("tenant")).status_code == 403
    assert closed.get("/metrics", headers=bearer("operator")).status_code == 200
    name = next(name for name in fake.adapters if name.startswith("medical@"))
    fake.refuse.add(name)
    del fake.adapters[name]
    wait_until(lambda: closed.get("/ready").status_code == 503)
    assert "medical" not in closed.get("/ready", headers=bearer("tenant")).text
    assert "medical" in closed.get("/ready", headers=bearer("operator")).text


def test_sizes(closed: httpx.Client, fake: FakeEngine) -> None:
    headers = bearer("narrow")
    assert closed.post(CHAT, json=body(text="x" * 3000), headers=headers).json()["error"]["code"] == "body_too_large"
    reply = closed.post(CHAT, json=body(text="x" * 400), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "prompt_too_large")
    assert closed.post("/v1/route", json=body(text="x" * 3000), headers=headers).status_code == 413
    assert closed.post("/v1/route", json=body(text="x" * 400), headers=headers).status_code == 413
    assert closed.post(CHAT, json=body(max_tokens=51), headers=headers).status_code == 400
    assert closed.post(CHAT, json=body(max_tokens=30, n=2), headers=headers).status_code == 400
    assert fake.requests == []
    closed.post(CHAT, json=body(n=2), headers=headers)
    assert fake.requests[-1]["max_completion_tokens"] == 25
    closed.post("/v1/responses", json={"model": "legal", "input": "x"}, headers=headers)
    assert fake.requests[-1]["max_output_tokens"] == 50
    closed.post(CHAT, json=body(max_tokens=50), headers=headers)
    assert "max_completion_tokens" not in fake.requests[-1]


def test_requests_per_minute(closed_url: str) -> None:
    client = openai.OpenAI(base_url=f"{closed_url}/v1", api_key=KEYS["slow"], max_retries=0)
    messages: Any = [{"role": "user", "content": "hi"}]
    for _ in range(2):
        client.chat.completions.create(model="legal", messages=messages)
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="legal", messages=messages)
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 30


def test_tokens_per_minute(closed: httpx.Client) -> None:
    statuses = [closed.post(CHAT, json=body("legal"), headers=bearer("thrifty")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_concurrent_requests(closed: httpx.Client, fake: FakeEngine) -> None:
    fake.chunk_delay = 0.5
    with closed.stream("POST", CHAT, json=body("legal", stream=True), headers=bearer("slow")) as first:
        events = first.iter_bytes()
        next(events)
        reply = closed.post(CHAT, json=body("legal"), headers=bearer("slow"))
        assert (reply.status_code, reply.json()["error"]["type"]) == (429, "rate_limit_error")
        assert b"[DONE]" in b"".join(events)


def test_bypass_is_for_those_who_may(closed: httpx.Client, fake: FakeEngine) -> None:
    for name, status in (("tenant", 403), ("operator", 200)):
        reply = closed.post(CHAT, json=body(), headers={**bearer(name), "x-zephyra-bypass": "1"})
        assert reply.status_code == status
    assert reply.headers["x-zephyra-reason"] == "bypass"
    assert str(fake.requests[-1]["model"]).startswith("zero@")
    text = closed.get("/metrics", headers=bearer("operator")).text
    assert 'zephyra_stage_duration_seconds_count{arm="bypass",stage="route"} 1.0' in text
    for secret in KEYS.values():
        assert secret not in text


def test_a_changed_key_file_is_taken_over(closed: httpx.Client, keys_file: Path) -> None:
    write_keys(keys_file, [entry("old"), *(key for key in ENTRIES if key.name not in {"old", "tenant"})])
    wait_until(lambda: closed.get("/v1/models", headers=bearer("old")).status_code == 200)
    assert closed.get("/v1/models", headers=bearer("tenant")).status_code == 401
    keys_file.write_text("{")
    time.sleep(1.2)
    assert closed.get("/v1/models", headers=bearer("old")).status_code == 200
