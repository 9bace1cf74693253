"""The engine's answer on its way to the client: names given back, streams relayed event by event."""

import re
import time

import msgspec

from server.answer import Answer, Headers
from server.apis import Api
from server.call import Call
from server.engine import Reply
from server.errors import AdapterNotReady, EngineFailed, EngineUnavailable, ZephyraError
from server.routing import Choice

EVENT_END = b"\n\n"
STOPPED = "The engine stopped while answering. Try again."
# Escaped quotes keep generated text from matching. OpenAI's names and Anthropic's.
_PROMPT_TOKENS = re.compile(rb'"(?:prompt|input)_tokens":(\d{1,12})')
_OUTPUT_TOKENS = re.compile(rb'"(?:completion|output)_tokens":(\d{1,12})')


class Renamer:
    """Replaces the engine-side name with the public one in JSON text.

    The needle is a whole `"model":"..."` member: inside a JSON string its quotes would be escaped, so generated text
    can never match.
    """

    __slots__ = ("_needle", "_replacement")

    def __init__(self, engine_name: str, public_name: str) -> None:
        self._needle = b'"model":' + msgspec.json.encode(engine_name)
        self._replacement = b'"model":' + msgspec.json.encode(public_name)

    def __call__(self, text: bytes) -> bytes:
        return text.replace(self._needle, self._replacement)


class Events:
    """Regroups a stream's chunks so that each ends where an event ends."""

    __slots__ = ("_reply", "_rest")

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._rest = b""

    async def next(self) -> bytes:
        """Whole events as soon as there are any; what is left at the end as it is, then b""."""
        while True:
            chunk = await self._reply.chunk()
            if not chunk:
                rest, self._rest = self._rest, b""
                return rest
            if not self._rest and chunk.endswith(EVENT_END):
                return chunk
            whole = self._rest + chunk
            # An end may lie across the seam, never before it.
            end = whole.rfind(EVENT_END, max(0, len(self._rest) - 1))
            if end < 0:
                self._rest = whole
                continue
            self._rest = whole[end + 2 :]
            return whole[: end + 2]


def response_headers(call: Call, choice: Choice, content_type: str) -> Headers:
    headers = [
        (b"content-type", content_type.encode("latin-1")),
        (b"x-request-id", call.request_id),
        (b"x-zephyra-adapter", choice.adapter.encode()),
        (b"x-zephyra-reason", choice.reason.encode()),
        (b"server-timing", call.timing.server_timing()),
    ]
    if choice.decision is not None:
        headers.append((b"x-zephyra-domain", choice.decision.domain.encode()))
        headers.append((b"x-zephyra-confidence", b"%.4f" % choice.decision.confidence))
    return headers


async def relay_whole(reply: Reply, call: Call, api: Api, choice: Choice, answer: Answer) -> int:
    """Relay an answer that is not streamed; returns its status. Raises `ZephyraError` before anything is sent."""
    body = await reply.read()
    call.timing.answered = time.perf_counter()
    check_status(reply.status, body, choice)
    if api.aborted in body:
        raise EngineUnavailable(STOPPED)
    body = Renamer(choice.engine_name, choice.model)(body)
    count_tokens(call, body[body.rfind(b'"usage":') :])
    call.timing.sent = True
    await answer.whole(reply.status, response_headers(call, choice, reply.content_type), body)
    return reply.status


async def relay_stream(reply: Reply, call: Call, api: Api, choice: Choice, answer: Answer) -> int:
    """Relay server-sent events as they come; returns the status. Raises `ZephyraError` before the first byte only.

    The head is sent with the first event, so that a failure before it still has its own status. A later one becomes
    an SSE event with an error, as vLLM itself does.
    """
    rename = Renamer(choice.engine_name, choice.model)
    events = Events(reply)
    chunk = await events.next()
    if not chunk:
        raise EngineUnavailable("The engine ended the stream before it began. Try again.")
    if api.aborted in chunk:
        raise EngineUnavailable(STOPPED)
    call.timing.answered = time.perf_counter()
    headers = response_headers(call, choice, reply.content_type)
    headers.append((b"cache-control", b"no-cache"))
    call.timing.sent = True
    await answer.begin(reply.status, headers)
    count, usage, last = 0, b"", chunk
    status = reply.status
    aborted = api.aborted
    try:
        while chunk:
            if aborted in chunk:
                raise EngineUnavailable(STOPPED)
            if b'"usage":{' in chunk:
                usage = chunk
            count += chunk.count(b"\ndata:") + 1
            last = chunk
            await answer.part(rename(chunk))
            chunk = await events.next()
        if not any(end in last for end in api.ends):
            raise EngineUnavailable("The engine ended the stream before its end. Try again.")
    except ZephyraError as error:
        status = error.status
        await answer.part(api.error_event(error))
    call.output_tokens = count
    count_tokens(call, usage)
    await answer.end()
    return status


def count_tokens(call: Call, usage: bytes) -> None:
    """Note the tokens that an answer's `usage` states, where it states any."""
    if found := _PROMPT_TOKENS.search(usage):
        call.prompt_tokens = int(found[1])
    if found := _OUTPUT_TOKENS.search(usage):
        call.output_tokens = int(found[1])


def check_status(status: int, body: bytes, choice: Choice) -> None:
    """Turn an engine's failure that is not the client's into an error of ours. Its other 4xx pass through."""
    if status == 404 and choice.engine_name.encode() in body:
        raise AdapterNotReady(f"{choice.adapter} is being loaded again. Try again.", "model")
    if status == 503:
        raise EngineUnavailable("The engine takes no more requests now. Try again.")
    if status >= 500:
        raise EngineFailed(f"The engine failed with status {status}. Try again; if it lasts, see its log.")
