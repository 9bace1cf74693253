"""Chat completions through the gateway: who answers, what comes back, what the headers say."""

import json
import re
from typing import Any

import httpx
import openai
import pytest

from tests.fake_engine import FakeEngine
from tests.integration.conftest import PROMPTS
from tests.waiting import wait_until

CHAT = "/v1/chat/completions"


def body(model: str = "zephyra-resolve", text: str = PROMPTS["sql"], **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def served_by(reply: httpx.Response) -> str:
    """The name the engine was asked under, which the fake says in its answer."""
    return str(reply.json()["choices"][0]["message"]["content"].split(":")[0])


@pytest.mark.parametrize("domain", PROMPTS)
def test_resolve_sends_each_domain_to_its_adapter(http: httpx.Client, domain: str) -> None:
    reply = http.post(CHAT, json=body(text=PROMPTS[domain]))
    assert reply.status_code == 200
    assert reply.headers["x-zephyra-domain"] == domain
    if domain == "general":
        assert reply.headers["x-zephyra-adapter"] == "zephyra"
        assert served_by(reply).startswith("zero@")
    else:
        assert re.fullmatch(domain + "@[0-9a-f]{12}", reply.headers["x-zephyra-adapter"])
        assert served_by(reply) == reply.headers["x-zephyra-adapter"]
    assert reply.headers["x-zephyra-reason"] == "resolved"
    assert 0 < float(reply.headers["x-zephyra-confidence"]) <= 1


@pytest.mark.parametrize("model", ["zephyra", "legal", "zephyra-resolve"])
def test_public_name_comes_back(http: httpx.Client, model: str) -> None:
    reply = http.post(CHAT, json=body(model))
    assert reply.json()["model"] == model
    streamed = http.post(CHAT, json=body(model, stream=True)).text
    chunks = [json.loads(line[6:]) for line in streamed.split("\n\n") if line.startswith("data: {")]
    assert len(chunks) > 5
    assert {chunk["model"] for chunk in chunks} == {model}


def test_explicit_adapter_is_not_routed(http: httpx.Client) -> None:
    reply = http.post(CHAT, json=body("legal", PROMPTS["sql"]))
    assert served_by(reply).startswith("legal@")
    assert reply.headers["x-zephyra-reason"] == "explicit"
    assert "x-zephyra-domain" not in reply.headers


def test_server_timing_has_every_stage(http: httpx.Client) -> None:
    for stream in (False, True):
        value = http.post(CHAT, json=body(stream=stream)).headers["server-timing"]
        stages = dict(part.split(";dur=") for part in value.split(", "))
        assert list(stages) == ["parse", "route", "gateway", "engine"]
        assert all(float(milliseconds) >= 0 for milliseconds in stages.values())
        assert float(stages["gateway"]) >= float(stages["parse"]) + float(stages["route"])


def test_unknown_fields_pass_and_forbidden_ones_do_not(http: httpx.Client, fake: FakeEngine) -> None:
    extra: dict[str, Any] = {
        "top_k": 7,
        "logit_bias": {"12": 1.5},
        "seed": 9007199254740993,
        "cache_salt": "x",
        "priority": -9,
    }
    http.post(CHAT, json=body(**extra))
    sent = fake.requests[-1]
    assert (sent["top_k"], sent["logit_bias"], sent["seed"]) == (7, {"12": 1.5}, 9007199254740993)
    assert "cache_salt" not in sent
    assert "priority" not in sent


def test_names_inside_generated_text_are_untouched(http: httpx.Client, fake: FakeEngine) -> None:
    name = http.post(CHAT, json=body("legal")).headers["x-zephyra-adapter"]
    fake.words = (f'{{"model":"{name}"}}',)
    text = http.post(CHAT, json=body("legal")).json()["choices"][0]["message"]["content"]
    assert text == f'{name}: {{"model":"{name}"}}'


@pytest.mark.parametrize("size", [1, 7, 150])
def test_stream_survives_any_chunking(http: httpx.Client, fake: FakeEngine, size: int) -> None:
    whole = http.post(CHAT, json=body("legal", stream=True)).content
    fake.chunk_bytes = size
    assert http.post(CHAT, json=body("legal", stream=True)).content == whole


def test_request_id_goes_in_and_out(http: httpx.Client, fake: FakeEngine) -> None:
    reply = http.post(CHAT, json=body(), headers={"x-request-id": "abc-1"})
    assert reply.headers["x-request-id"] == "abc-1"
    assert fake.headers[-1]["x-request-id"] == "abc-1"
    assert len(http.post(CHAT, json=body()).headers["x-request-id"]) == 32


def test_client_that_leaves_aborts_the_engine_request(http: httpx.Client, fake: FakeEngine) -> None:
    fake.delay = 30
    with pytest.raises(httpx.ReadTimeout):
        http.post(CHAT, json=body(), timeout=0.5)
    wait_until(lambda: fake.aborted == 1)
    fake.delay, fake.chunk_delay = 0, 0.2
    with http.stream("POST", CHAT, json=body(stream=True)) as reply:
        next(reply.iter_bytes())
    wait_until(lambda: fake.aborted == 2)
    wait_until(lambda: "zephyra_requests_in_flight 0.0" in http.get("/metrics").text)


def test_official_client(gateway_url: str) -> None:
    client = openai.OpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0)
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["zephyra-resolve", "zephyra"]
    assert set(names) >= {"code", "sql", "math", "medical", "finance", "legal", "support"}
    assert client.models.retrieve("legal").id == "legal"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("astrology")
    messages: Any = [{"role": "user", "content": PROMPTS["legal"]}]
    whole = client.chat.completions.create(model="zephyra-resolve", messages=messages)
    assert whole.choices[0].message.content
    stream = client.chat.completions.create(model="zephyra-resolve", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content


def test_route_answers_without_the_engine(http: httpx.Client, fake: FakeEngine) -> None:
    decision = http.post("/v1/route", json={"messages": [{"role": "user", "content": PROMPTS["medical"]}]}).json()
    assert decision["domain"] == decision["model"] == "medical"
    assert decision["adapter"].startswith("medical@")
    assert abs(sum(decision["scores"].values()) - 1) < 1e-3
    assert 0.5 < decision["confidence"] <= 1
    assert fake.requests == []


def test_metrics_count_what_happened(http: httpx.Client) -> None:
    http.post(CHAT, json=body(text=PROMPTS["math"]))
    http.post(CHAT, json=body("nonsense"))
    text = http.get("/metrics").text
    wanted = 'zephyra_requests_total{adapter="math",model="zephyra-resolve",reason="resolved",status="200"} 1.0'
    assert wanted in text
    assert 'zephyra_requests_total{adapter="",model="",reason="refused",status="404"} 1.0' in text
    assert "nonsense" not in text
    for name in ("route_duration", "gateway_overhead", "time_to_first_token", "request_duration"):
        assert re.search(rf"zephyra_{name}_seconds_count(\{{.*\}})? 1\.0", text), name
