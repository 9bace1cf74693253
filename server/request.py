"""What the gateway reads of a request: parsed once, everything else passed on byte for byte."""

from dataclasses import dataclass, replace
from typing import Any, Self

import msgspec

from server.apis import CHAT, Api, Conversation, Fields, decode
from server.errors import InvalidRequest

# Fields through which a client could reach another tenant's cache, the scheduler or the template (vLLM's extensions).
STRIPPED_FIELDS = ("cache_salt", "priority", "kv_transfer_params", "vllm_xargs", "chat_template")
# What makes up a prompt, over all APIs.
PROMPT_FIELDS = ("messages", "prompt", "input", "system", "instructions", "tools", "suffix")

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text_decoder = msgspec.json.Decoder(str)
_flag_decoder = msgspec.json.Decoder(bool | None)
_count_decoder = msgspec.json.Decoder(int | None)
_encoder = msgspec.json.Encoder()
_FLAGS = {b"true": True, b"false": False, b"null": False}


@dataclass(frozen=True, slots=True)
class RoutedRequest:
    """A request for a routed API. `fields` holds each top-level field's JSON as it came."""

    api: Api
    fields: Fields
    model: str
    messages: Conversation
    stream: bool

    def body_for(self, engine_name: str) -> bytes:
        """The body to send to an engine that knows the chosen version as `engine_name`."""
        fields = self.fields.copy()
        fields["model"] = msgspec.Raw(_encoder.encode(engine_name))
        for name in STRIPPED_FIELDS:
            fields.pop(name, None)
        return _encoder.encode(fields)

    @property
    def prompt_bytes(self) -> int:
        """The size of the prompt's JSON: messages, instructions, tools."""
        fields = self.fields
        return sum(len(memoryview(fields[name])) for name in PROMPT_FIELDS if name in fields)

    def output_tokens(self) -> int | None:
        """The most tokens that the request asks for, over all its answers; None where it sets no limit.

        Raises `InvalidRequest` where a limit is no positive integer.
        """
        answers = max(self._count("n") or 1, self._count("best_of") or 1)
        limits = [limit for name in self.api.output if (limit := self._count(name)) is not None]
        return max(limits) * answers if limits else None

    def with_output_limit(self, tokens: int) -> Self:
        """The request with a limit set where it has none, shared by all its answers."""
        answers = max(self._count("n") or 1, self._count("best_of") or 1)
        limit = msgspec.Raw(b"%d" % max(1, tokens // answers))
        return replace(self, fields={**self.fields, self.api.output[0]: limit})

    def _count(self, name: str) -> int | None:
        if name not in self.fields:
            return None
        count: int | None = decode(_count_decoder, self.fields[name], name)
        if count is not None and count < 1:
            raise InvalidRequest(f"'{name}' must be at least 1.", name)
        return count


def parse(api: Api, body: bytes, default_model: str | None = None) -> RoutedRequest:
    """Parse a body of `api`. Raises `InvalidRequest`."""
    fields: Fields = decode(_fields_decoder, body, None)
    if "model" in fields:
        model = decode(_text_decoder, fields["model"], "model")
    elif default_model is not None:
        model = default_model
    else:
        raise InvalidRequest("'model' is required: name a model of GET /v1/models.", "model")
    messages = api.conversation(fields)
    stream: Any = fields.get("stream")
    return RoutedRequest(api, fields, model, messages, stream is not None and _flag(stream))


def parse_chat(body: bytes, default_model: str | None = None) -> RoutedRequest:
    """Parse a body for /v1/chat/completions or /v1/route. Raises `InvalidRequest`."""
    return parse(CHAT, body, default_model)


def _flag(raw: msgspec.Raw) -> bool:
    known = _FLAGS.get(bytes(raw))
    return known if known is not None else bool(decode(_flag_decoder, raw, "stream"))
