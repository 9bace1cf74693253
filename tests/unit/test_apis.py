"""Every API's parser over wild input: a request or an `InvalidRequest`, nothing else; and errors in each shape."""

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import TinyAda
from server import errors
from server.apis import APIS, CHAT, COMPLETIONS, MESSAGES, RESPONSES, TOKENIZE, Api
from server.errors import InvalidRequest, ZephyraError
from server.request import parse
from tests.unit.test_request import JSON

# The full fuzz: ZEPHYRA_FUZZ=100000 pytest tests/unit/test_apis.py
EXAMPLES = int(os.environ.get("ZEPHYRA_FUZZ", "200"))
FIELDS = st.sampled_from(
    ["model", "messages", "prompt", "input", "stream", "n", "max_tokens", "max_output_tokens", "best_of", "system"]
)
PART = st.fixed_dictionaries({"type": st.just("text"), "text": st.text() | st.none()})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
    optional={"content": st.text() | st.lists(PART, max_size=3) | st.none()},
)
PARTS = [{"type": "text", "text": "a"}]
LIKELY = st.dictionaries(FIELDS, JSON | st.lists(MESSAGE, max_size=4) | st.text() | st.integers(-2, 100), max_size=6)


@pytest.fixture(scope="module")
def ada() -> TinyAda:
    return TinyAda.load()


@settings(max_examples=EXAMPLES)
@given(api=st.sampled_from(APIS), fields=LIKELY)
def test_any_fields_of_any_api(ada: TinyAda, api: Api, fields: dict[str, Any]) -> None:
    try:
        request = parse(api, json.dumps({"model": "m", **fields}).encode())
        asked = request.output_tokens()
    except InvalidRequest:
        return
    assert asked is None or asked >= 1
    assert request.prompt_bytes > 0
    assert ada.route_conversation(request.messages).domain in ada.domains
    sent = json.loads(request.body_for("m@1"))
    assert sent == {**{"model": "m"}, **fields, "model": "m@1"}


@settings(max_examples=EXAMPLES)
@given(api=st.sampled_from(APIS), body=st.binary())
def test_any_bytes_of_any_api(api: Api, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(api, body)


@pytest.mark.parametrize(
    ("api", "fields", "texts"),
    [
        (COMPLETIONS, {"prompt": "a"}, ["a"]),
        (COMPLETIONS, {"prompt": ["a", "b"]}, ["a\nb"]),
        (COMPLETIONS, {"prompt": [1, 2]}, [""]),
        (RESPONSES, {"input": "a"}, ["a"]),
        (RESPONSES, {"input": [{"role": "user", "content": "a"}, {"type": "reasoning"}]}, ["a"]),
        (MESSAGES, {"messages": [{"role": "user", "content": PARTS}]}, [PARTS]),
        (TOKENIZE, {"prompt": "a"}, ["a"]),
        (TOKENIZE, {"messages": [{"role": "user", "content": "a"}]}, ["a"]),
    ],
)
def test_where_each_api_has_its_conversation(api: Api, fields: dict[str, Any], texts: list[Any]) -> None:
    request = parse(api, json.dumps({"model": "m", **fields}).encode())
    assert [message["content"] for message in request.messages] == texts


def test_output_limits() -> None:
    request = parse(CHAT, b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":3,"max_tokens":10}')
    assert request.output_tokens() == 30
    bare = parse(COMPLETIONS, b'{"model":"m","prompt":"x","n":4}')
    assert bare.output_tokens() is None
    assert json.loads(bare.with_output_limit(100).body_for("m"))["max_tokens"] == 25


def leaves(kind: type[ZephyraError]) -> list[type[ZephyraError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]


@pytest.mark.parametrize("kind", leaves(ZephyraError))
def test_every_error_has_every_shape(kind: type[ZephyraError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
    error = kind("what to do")
    for api in APIS:
        body = json.loads(api.error_body(error))["error"]
        assert body["message"]
        assert body["type"]
        event = api.error_event(error)
        assert event.endswith(b"\n\n")
        assert json.dumps(error.message).encode() in event
