"""The routed APIs: where each has its conversation, how its streams end, what its errors look like."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from server.errors import InvalidRequest, ZephyraError

Fields = dict[str, msgspec.Raw]
Conversation = list[dict[str, Any]]

_any_decoder = msgspec.json.Decoder(Any)
_messages_decoder = msgspec.json.Decoder(list[dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Api:
    """One endpoint of the engine that requests are routed to.

    `conversation` reads the messages TinyAda decides by, in OpenAI's chat shape; it raises `InvalidRequest`.
    One of `ends` occurs in the last event of every whole stream, `aborted` in an answer of an engine that was stopping.
    `output` are the fields that bound the answer's tokens; where none is given, a limit is set in the first.
    """

    path: str
    conversation: Callable[[Fields], Conversation]
    ends: tuple[bytes, ...] = (b"data: [DONE]\n\n",)
    aborted: bytes = b'"finish_reason":"abort"'
    output: tuple[str, ...] = ()
    error_body: Callable[[ZephyraError], bytes] = ZephyraError.body
    error_event: Callable[[ZephyraError], bytes] = lambda error: b"data: " + error.body() + b"\n\ndata: [DONE]\n\n"


def chat_messages(fields: Fields) -> Conversation:
    """`messages`, each with a role and a content of string, parts or null."""
    if "messages" not in fields:
        raise InvalidRequest('\'messages\' is required: a list of {"role", "content"} objects.', "messages")
    messages: Conversation = decode(_messages_decoder, fields["messages"], "messages")
    if not messages:
        raise InvalidRequest("'messages' must hold at least one message.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise InvalidRequest(f"'messages[{index}].role' must be a string.", f"messages[{index}].role")
        if not isinstance(message.get("content"), str | list | None):
            problem = f"'messages[{index}].content' must be a string or a list of parts."
            raise InvalidRequest(problem, f"messages[{index}].content")
    return messages


def completion_prompt(fields: Fields) -> Conversation:
    """`prompt`: a string, or a list of which the strings are read. Token ids say nothing to TinyAda."""
    if "prompt" not in fields:
        raise InvalidRequest("'prompt' is required: a string, a list of strings or token ids.", "prompt")
    prompt = decode(_any_decoder, fields["prompt"], "prompt")
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest("'prompt' must be a string, a list of strings or token ids.", "prompt")
    texts = [part for part in prompt if isinstance(part, str)]
    return [{"role": "user", "content": "\n".join(texts)}]


def responses_input(fields: Fields) -> Conversation:
    """`input`: a string, or a list of items of which those with a role are messages."""
    if "input" not in fields:
        raise InvalidRequest("'input' is required: a string or a list of items.", "input")
    items = decode(_any_decoder, fields["input"], "input")
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise InvalidRequest("'input' must be a string or a list of items.", "input")
    return [item for item in items if isinstance(item.get("role"), str)]


def tokenize_input(fields: Fields) -> Conversation:
    """A prompt or messages, as vLLM's /tokenize takes either."""
    return completion_prompt(fields) if "prompt" in fields else chat_messages(fields)


def responses_event(error: ZephyraError) -> bytes:
    """The `error` event of a Responses stream."""
    event = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    detail = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return b"event: error\ndata: " + msgspec.json.encode({**event, "error": detail}) + b"\n\n"


def anthropic_event(error: ZephyraError) -> bytes:
    """The `error` event of a Messages stream."""
    return b"event: error\ndata: " + error.anthropic_body() + b"\n\n"


def decode(decoder: msgspec.json.Decoder[Any], raw: bytes | msgspec.Raw, param: str | None) -> Any:
    """Decode JSON; raises `InvalidRequest` that names `param`, or the body where it is None."""
    where = f"'{param}'" if param else "The body"
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{where} has the wrong type: {error}.", param) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{where} is not valid JSON in UTF-8: {error}.", param) from None
    except RecursionError:
        raise InvalidRequest(f"{where} is nested too deeply.", param) from None


CHAT = Api("/v1/chat/completions", chat_messages, output=("max_completion_tokens", "max_tokens"))
COMPLETIONS = Api("/v1/completions", completion_prompt, output=("max_tokens",))
RESPONSES = Api(
    "/v1/responses",
    responses_input,
    ends=(b"event: response.completed", b"event: response.incomplete", b"event: response.failed"),
    aborted=b'"status":"cancelled"',
    output=("max_output_tokens",),
    error_event=responses_event,
)
MESSAGES = Api(
    "/v1/messages",
    chat_messages,
    ends=(b"event: message_stop",),
    output=("max_tokens",),
    error_body=ZephyraError.anthropic_body,
    error_event=anthropic_event,
)
COUNT_TOKENS = Api("/v1/messages/count_tokens", chat_messages, error_body=ZephyraError.anthropic_body)
TOKENIZE = Api("/tokenize", tokenize_input)

APIS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT_TOKENS, TOKENIZE)
