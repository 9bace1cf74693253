"""What the gateway reads of a request: parsed once, everything else passed on byte for byte."""

from dataclasses import dataclass
from typing import Any

import msgspec

from server.errors import InvalidRequest

# Fields through which a client could reach another tenant's cache, the scheduler or the template (vLLM's extensions).
STRIPPED_FIELDS = ("cache_salt", "priority", "kv_transfer_params", "vllm_xargs", "chat_template")

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_messages_decoder = msgspec.json.Decoder(list[dict[str, Any]])
_text_decoder = msgspec.json.Decoder(str)
_flag_decoder = msgspec.json.Decoder(bool | None)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion request. `fields` holds each top-level field's JSON as it came."""

    fields: dict[str, msgspec.Raw]
    model: str
    messages: list[dict[str, Any]]
    stream: bool

    def body_for(self, engine_name: str) -> bytes:
        """The body to send to an engine that knows the chosen version as `engine_name`."""
        fields = {**self.fields, "model": msgspec.Raw(_encoder.encode(engine_name))}
        for name in STRIPPED_FIELDS:
            fields.pop(name, None)
        return _encoder.encode(fields)


def parse_chat(body: bytes, default_model: str | None = None) -> ChatRequest:
    """Parse a body for /v1/chat/completions or /v1/route. Raises `InvalidRequest`."""
    fields = _decode(_fields_decoder, body, None)
    if "model" in fields:
        model = _decode(_text_decoder, fields["model"], "model")
    elif default_model is not None:
        model = default_model
    else:
        raise InvalidRequest("'model' is required: name a model of GET /v1/models.", "model")
    messages = _messages(fields)
    stream = _decode(_flag_decoder, fields["stream"], "stream") if "stream" in fields else False
    return ChatRequest(fields, model, messages, bool(stream))


def _messages(fields: dict[str, msgspec.Raw]) -> list[dict[str, Any]]:
    if "messages" not in fields:
        raise InvalidRequest('\'messages\' is required: a list of {"role", "content"} objects.', "messages")
    messages: list[dict[str, Any]] = _decode(_messages_decoder, fields["messages"], "messages")
    if not messages:
        raise InvalidRequest("'messages' must hold at least one message.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise InvalidRequest(f"'messages[{index}].role' must be a string.", f"messages[{index}].role")
        if not isinstance(message.get("content"), str | list | None):
            problem = f"'messages[{index}].content' must be a string or a list of parts."
            raise InvalidRequest(problem, f"messages[{index}].content")
    return messages


def _decode(decoder: msgspec.json.Decoder[Any], raw: bytes | msgspec.Raw, param: str | None) -> Any:
    where = f"'{param}'" if param else "The body"
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{where} has the wrong type: {error}.", param) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{where} is not valid JSON in UTF-8: {error}.", param) from None
    except RecursionError:
        raise InvalidRequest(f"{where} is nested too deeply.", param) from None
