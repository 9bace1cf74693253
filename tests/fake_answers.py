"""What the fake engine answers on each API, in the shapes vLLM gives them: whole, and as server-sent events."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

USAGE = {"prompt_tokens": 9, "total_tokens": 16, "completion_tokens": 7}
INPUT_USAGE = {"input_tokens": 9, "output_tokens": 7}


@dataclass(frozen=True)
class Answer:
    """`model` is the engine-side name, which begins the text, so that tests see who was asked."""

    model: str
    words: tuple[str, ...]
    finish: str

    @property
    def parts(self) -> tuple[str, ...]:
        return (f"{self.model}: ", *self.words)

    @property
    def text(self) -> str:
        return "".join(self.parts)


def chat(answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": answer.model}
    return {**whole, "choices": [choice], "usage": USAGE}


def chat_events(answer: Answer, usage: bool) -> Iterator[bytes]:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": answer.model}
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": part} for part in answer.parts]
    for index, delta in enumerate(deltas):
        finish = answer.finish if index == len(deltas) - 1 else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        yield _data({**chunk, "choices": [choice]})
    if usage:
        yield _data({**chunk, "choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


def completion(answer: Answer) -> dict[str, Any]:
    choice = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": answer.finish}
    whole = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": answer.model}
    return {**whole, "choices": [choice], "usage": USAGE}


def completion_events(answer: Answer, usage: bool) -> Iterator[bytes]:
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": answer.model}
    for index, part in enumerate(answer.parts):
        finish = answer.finish if index == len(answer.parts) - 1 else None
        yield _data({**chunk, "choices": [{"index": 0, "text": part, "logprobs": None, "finish_reason": finish}]})
    if usage:
        yield _data({**chunk, "choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


def response(answer: Answer) -> dict[str, Any]:
    status = "cancelled" if answer.finish == "abort" else "completed"
    part = {"type": "output_text", "text": answer.text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    return {**_response_head(answer, status), "output": [item], "usage": {**INPUT_USAGE, "total_tokens": 16}}


def response_events(answer: Answer, usage: bool) -> Iterator[bytes]:
    head = {**_response_head(answer, "in_progress"), "output": []}
    yield _event({"type": "response.created", "sequence_number": 0, "response": head})
    for index, part in enumerate(answer.parts):
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "sequence_number": index + 1}
        yield _event({"type": "response.output_text.delta", **place, "delta": part, "logprobs": []})
    number = len(answer.parts) + 1
    yield _event({"type": "response.completed", "sequence_number": number, "response": response(answer)})


def message(answer: Answer) -> dict[str, Any]:
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": answer.model}
    content = [{"type": "text", "text": answer.text}]
    return {**whole, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": INPUT_USAGE}


def message_events(answer: Answer, usage: bool) -> Iterator[bytes]:
    start = {**message(answer), "content": [], "stop_reason": None, "usage": {"input_tokens": 9, "output_tokens": 0}}
    yield _event({"type": "message_start", "message": start})
    yield _event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    for part in answer.parts:
        delta = {"type": "text_delta", "text": part}
        yield _event({"type": "content_block_delta", "index": 0, "delta": delta})
    yield _event({"type": "content_block_stop", "index": 0})
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": ended, "usage": INPUT_USAGE})
    yield _event({"type": "message_stop"})


def token_count(answer: Answer) -> dict[str, Any]:
    return {"input_tokens": 9}


def tokens(answer: Answer) -> dict[str, Any]:
    return {"count": 3, "max_model_len": 2048, "tokens": [1, 2, 3], "token_strs": None}


def _response_head(answer: Answer, status: str) -> dict[str, Any]:
    head = {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": answer.model}
    return {**head, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None}


def _data(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + _data(value)


WHOLE: dict[str, Callable[[Answer], dict[str, Any]]] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completion,
    "/v1/responses": response,
    "/v1/messages": message,
    "/v1/messages/count_tokens": token_count,
    "/tokenize": tokens,
}
STREAMED: dict[str, Callable[[Answer, bool], Iterator[bytes]]] = {
    "/v1/chat/completions": chat_events,
    "/v1/completions": completion_events,
    "/v1/responses": response_events,
    "/v1/messages": message_events,
}
