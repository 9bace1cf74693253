"""The whole path on the real engine: answers, names, headers, an engine's death, a clean stop."""

import re
import signal
import threading
import time
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.engine.conftest import DOMAINS, System
from tests.integration.conftest import PROMPTS
from tests.waiting import wait_until


def ask(client: openai.OpenAI, model: str, text: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24, **more)


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["zephyra-resolve", "zephyra", *names[2:]]
    assert set(names[2:]) == set(DOMAINS)
    assert client.models.retrieve("medical").id == "medical"


@pytest.mark.parametrize("domain", PROMPTS)
def test_a_prompt_of_each_domain_finds_its_adapter(client: openai.OpenAI, domain: str) -> None:
    messages: Any = [{"role": "user", "content": PROMPTS[domain]}]
    raw = client.chat.completions.with_raw_response.create(model="zephyra-resolve", messages=messages, max_tokens=8)
    answer = raw.parse()
    assert answer.model == "zephyra-resolve"
    assert answer.choices[0].message.content
    assert raw.headers["x-zephyra-domain"] == domain
    adapter = "zephyra" if domain == "general" else f"{domain}@"
    assert raw.headers["x-zephyra-adapter"].startswith(adapter)
    stages = dict(part.split(";dur=") for part in raw.headers["server-timing"].split(", "))
    assert set(stages) == {"parse", "route", "gateway", "engine"}
    assert float(stages["engine"]) > float(stages["gateway"])


def test_streamed_and_whole_answers_agree(client: openai.OpenAI) -> None:
    whole = ask(client, "legal", PROMPTS["legal"]).choices[0].message.content
    chunks = list(ask(client, "legal", PROMPTS["legal"], stream=True))
    assert {chunk.model for chunk in chunks} == {"legal"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_adapters_answer_differently_and_the_base_is_the_base(client: openai.OpenAI) -> None:
    alone = {name: ask(client, name, PROMPTS["support"]).choices[0].message.content for name in ("zephyra", *DOMAINS)}
    assert len(set(alone.values())) >= 6
    # In one batch with LoRA requests the base must stay the base.
    together: dict[str, str] = {}

    def one(name: str) -> None:
        together[name] = ask(client, name, PROMPTS["support"]).choices[0].message.content

    threads = [threading.Thread(target=one, args=(name,)) for name in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_engine_refuses_what_it_cannot_serve(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(client, "zephyra", "hi", n=-1)
    with pytest.raises(openai.NotFoundError):
        ask(client, "astrology", "hi")


def test_metrics_show_the_traffic(client: openai.OpenAI, system: System) -> None:
    ask(client, "zephyra-resolve", PROMPTS["math"])
    text = httpx.get(f"{system.url}/metrics").text
    assert 'zephyra_requests_total{adapter="math",model="zephyra-resolve",reason="resolved",status="200"}' in text
    assert f'zephyra_adapters_loaded{{engine="unix:{system.directory}' in text


def test_killed_engine_comes_back_with_all_adapters(client: openai.OpenAI, system: System) -> None:
    before = ask(client, "legal", PROMPTS["legal"]).choices[0].message.content
    family = [system.engine(), *system.engine().children(recursive=True)]
    messages: Any = [{"role": "user", "content": "Count as far as you can."}]
    stream = client.chat.completions.create(
        model="code", messages=messages, stream=True, max_tokens=200, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    system.engine().kill()
    with pytest.raises(openai.APIError, match=r"before its end|broke off"):
        for _ in stream:
            pass
    wait_until(lambda: not system.ready())
    with pytest.raises(openai.InternalServerError) as refused:
        ask(client, "legal", "hi")
    assert refused.value.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) > 0
    assert refused.value.code == "engine_unavailable"
    system.wait_ready()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert ask(client, "legal", PROMPTS["legal"]).choices[0].message.content == before
    for name in DOMAINS:
        assert ask(client, name, "hello").model == name


@pytest.mark.last
def test_interrupt_leaves_nothing_behind(system: System) -> None:
    family = system.descendants()
    assert len(family) >= 2
    system.process.send_signal(signal.SIGINT)
    assert system.process.wait(60) == 0
    deadline = time.monotonic() + 10
    while any(process.is_running() for process in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [process for process in family if process.is_running()] == []
    assert list(system.directory.glob("zephyra-*")) == []
    # The engine prefixes its own lines; a traceback of the gateway would begin its line.
    assert not re.search(r"^Traceback", system.log.read_text(), re.MULTILINE)
