"""The official clients, sync and async, on every API: answers, streams, and the exception class of each error."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.fake_engine import FakeEngine
from tests.integration.conftest import PROMPTS

MESSAGES: Any = [{"role": "user", "content": PROMPTS["legal"]}]
MODELS = ["zephyra-resolve", "legal", "zephyra"]


@pytest.fixture
def client(gateway_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(gateway_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def claude(gateway_url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway_url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_claude(gateway_url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway_url, api_key="none", max_retries=0) as made:
        yield made


def asked(fake: FakeEngine) -> str:
    """The engine-side name of the last request, without its version."""
    return str(fake.requests[-1]["model"]).split("@")[0]


@pytest.mark.parametrize("model", MODELS)
def test_openai_sync(client: openai.OpenAI, fake: FakeEngine, model: str) -> None:
    served = "zero" if model == "zephyra" else "legal"
    whole = client.chat.completions.create(model=model, messages=MESSAGES)
    assert (whole.model, asked(fake)) == (model, served)
    chunks = list(
        client.chat.completions.create(
            model=model, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert {chunk.model for chunk in chunks} == {model}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7
    text = client.completions.create(model=model, prompt=PROMPTS["legal"])
    assert (text.model, asked(fake)) == (model, served)
    parts = list(client.completions.create(model=model, prompt=PROMPTS["legal"], stream=True))
    assert {part.model for part in parts} == {model}
    assert "".join(part.choices[0].text for part in parts) == text.choices[0].text
    response = client.responses.create(model=model, input=PROMPTS["legal"])
    assert (response.model, asked(fake)) == (model, served)
    events = list(client.responses.create(model=model, input=MESSAGES, stream=True))
    assert [event.type for event in events][:: len(events) - 1] == ["response.created", "response.completed"]
    assert {event.response.model for event in (events[0], events[-1])} == {model}  # type: ignore[union-attr]
    assert response.output_text.startswith(f"{served}@")


async def test_openai_async(async_client: openai.AsyncOpenAI) -> None:
    whole = await async_client.chat.completions.create(model="zephyra-resolve", messages=MESSAGES)
    stream = await async_client.chat.completions.create(model="zephyra-resolve", messages=MESSAGES, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content
    response = await async_client.responses.create(model="zephyra-resolve", input=PROMPTS["sql"])
    assert response.output_text.startswith("sql@")
    assert response.model == "zephyra-resolve"


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_sync(claude: anthropic.Anthropic, fake: FakeEngine, model: str) -> None:
    served = "zero" if model == "zephyra" else "legal"
    whole = claude.messages.create(model=model, messages=MESSAGES, max_tokens=50)
    assert (whole.model, asked(fake)) == (model, served)
    assert whole.content[0].text.startswith(f"{served}@")  # type: ignore[union-attr]
    with claude.messages.stream(model=model, messages=MESSAGES, max_tokens=50) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.model == model
    assert text == whole.content[0].text  # type: ignore[union-attr]
    count = claude.messages.count_tokens(model=model, messages=MESSAGES)
    assert (count.input_tokens, fake.paths[-1]) == (9, "/v1/messages/count_tokens")


async def test_anthropic_async(async_claude: anthropic.AsyncAnthropic) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": PROMPTS["medical"]}]}]
    async with async_claude.messages.stream(model="zephyra-resolve", messages=parts, max_tokens=50) as stream:
        text = "".join([part async for part in stream.text_stream])
    assert text.startswith("medical@")


def test_tokenize(http: httpx.Client, fake: FakeEngine) -> None:
    for body in ({"prompt": PROMPTS["sql"]}, {"messages": MESSAGES}):
        reply = http.post("/tokenize", json={"model": "zephyra-resolve", **body})
        assert reply.json()["tokens"] == [1, 2, 3]
    assert [name.split("@")[0] for name in (str(sent["model"]) for sent in fake.requests)] == ["sql", "legal"]


@pytest.mark.parametrize(
    ("failure", "expected", "other"),
    [
        ((400, b'{"error":{"message":"bad"}}'), openai.BadRequestError, anthropic.BadRequestError),
        ((422, b'{"error":{"message":"no"}}'), openai.UnprocessableEntityError, anthropic.UnprocessableEntityError),
        ((500, b"secret"), openai.InternalServerError, anthropic.InternalServerError),
        ((503, b"full"), openai.InternalServerError, anthropic.APIStatusError),
    ],
)
def test_engine_errors_have_their_exception(
    client: openai.OpenAI,
    claude: anthropic.Anthropic,
    fake: FakeEngine,
    failure: tuple[int, bytes],
    expected: type[openai.APIStatusError],
    other: type[anthropic.APIStatusError],
) -> None:
    fake.failure = failure
    with pytest.raises(expected) as raised:
        client.chat.completions.create(model="legal", messages=MESSAGES)
    assert "secret" not in str(raised.value)
    with pytest.raises(other):
        claude.messages.create(model="legal", messages=MESSAGES, max_tokens=5)


def test_own_errors_have_their_exception_and_shape(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="astrology", input="hi")
    assert missing.value.code == "model_not_found"
    with pytest.raises(anthropic.NotFoundError) as absent:
        claude.messages.create(model="astrology", messages=MESSAGES, max_tokens=5)
    body: Any = absent.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="zephyra", prompt=[])


@pytest.mark.parametrize("stream", [False, True])
def test_an_aborted_answer_is_an_error(client: openai.OpenAI, fake: FakeEngine, stream: bool) -> None:
    fake.finish = "abort"
    calls: list[Any] = [
        lambda: client.chat.completions.create(model="legal", messages=MESSAGES, stream=stream),
        lambda: client.completions.create(model="legal", prompt="x", stream=stream),
        lambda: client.responses.create(model="legal", input="x", stream=stream),
    ]
    for call in calls:
        with pytest.raises(openai.APIError, match="engine stopped"):
            list(call())


def test_a_broken_stream_is_an_error(client: openai.OpenAI, claude: anthropic.Anthropic, fake: FakeEngine) -> None:
    fake.break_after = 3
    with pytest.raises(openai.APIError):
        list(client.responses.create(model="legal", input="x", stream=True))
    with (
        pytest.raises(anthropic.APIStatusError),
        claude.messages.stream(model="legal", messages=MESSAGES, max_tokens=5) as stream,
    ):
        list(stream.text_stream)


def test_only_named_headers_go_onward(http: httpx.Client, fake: FakeEngine) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {
        "traceparent": trace,
        "tracestate": "a=1",
        "x-request-id": "r-1",
        "x-vllm-priority": "-5",
        "x-data-parallel-rank": "1",
        "x-session-id": "s",
        "authorization": "Bearer secret",
        "cookie": "c=1",
    }
    http.post("/v1/completions", json={"model": "legal", "prompt": "x"}, headers=headers)
    sent = fake.headers[-1]
    assert (sent["traceparent"], sent["tracestate"], sent["x-request-id"]) == (trace, "a=1", "r-1")
    for name in ("x-vllm-priority", "x-data-parallel-rank", "x-session-id", "authorization", "cookie"):
        assert name not in sent
    http.post("/v1/completions", json={"model": "legal", "prompt": "x"}, headers={"traceparent": "junk"})
    assert "traceparent" not in fake.headers[-1]


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/invocations", "/v1/embeddings"]
)
def test_engine_internal_routes_are_not_there(http: httpx.Client, path: str) -> None:
    assert http.post(path, json={"lora_name": "x", "lora_path": "/x"}).status_code == 404


def test_compressed_bodies_are_refused(http: httpx.Client, fake: FakeEngine) -> None:
    reply = http.post("/v1/chat/completions", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "encoding_not_supported")
    assert fake.requests == []
