"""Parsing: any bytes give a request or an `InvalidRequest`, and unknown fields stay byte for byte."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.request import STRIPPED_FIELDS, parse_chat

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.text().filter(lambda name: name not in {"model", "messages", "stream", *STRIPPED_FIELDS})


@given(st.binary())
def test_any_bytes(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(body)


@given(st.dictionaries(st.sampled_from(["model", "messages", "stream", "x"]), JSON))
def test_any_json(fields: dict[str, Any]) -> None:
    try:
        request = parse_chat(json.dumps(fields).encode())
    except InvalidRequest:
        return
    assert isinstance(request.model, str)
    assert all(isinstance(message["role"], str) for message in request.messages)


@given(st.dictionaries(NAMES, JSON), st.text())
def test_other_fields_pass_unchanged(extra: dict[str, Any], text: str) -> None:
    messages = [{"role": "user", "content": text}]
    fields = {**extra, "model": "a", "messages": messages, "cache_salt": "x"}
    request = parse_chat(json.dumps(fields).encode())
    sent = json.loads(request.body_for("a@1"))
    assert sent == {**extra, "model": "a@1", "messages": messages}


def test_number_formats_survive() -> None:
    body = b'{"model":"a","messages":[{"role":"user","content":"x"}],"t":1.0000000000000000000001,"n":1E2}'
    assert b'"t":1.0000000000000000000001,"n":1E2' in parse_chat(body).body_for("a")
