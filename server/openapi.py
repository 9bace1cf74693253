"""The OpenAPI description of the routed APIs: what the gateway reads of them; the rest is the engine's and passes."""

from typing import Any

from server.apis import APIS, CHAT, COMPLETIONS, COUNT_TOKENS, MESSAGES, RESPONSES, TOKENIZE, Api

MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string"},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
    },
}
TEXT_OR_LIST = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "object"}}]}
PROMPT = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]}
MESSAGES_FIELD = {"messages": {"type": "array", "minItems": 1, "items": MESSAGE}}
CONVERSATION: dict[str, dict[str, Any]] = {
    CHAT.path: MESSAGES_FIELD,
    COMPLETIONS.path: {"prompt": PROMPT},
    RESPONSES.path: {"input": TEXT_OR_LIST},
    MESSAGES.path: MESSAGES_FIELD,
    COUNT_TOKENS.path: MESSAGES_FIELD,
    TOKENIZE.path: {"prompt": {"type": "string"}},
}
SUMMARIES = {
    CHAT.path: "Chat completion (OpenAI)",
    COMPLETIONS.path: "Completion (OpenAI)",
    RESPONSES.path: "Response (OpenAI)",
    MESSAGES.path: "Message (Anthropic)",
    COUNT_TOKENS.path: "Count a message's tokens (Anthropic)",
    TOKENIZE.path: "Tokenize a prompt",
}
ERRORS = {
    "400": "The request cannot be read",
    "401": "No valid API key",
    "403": "The key may not do this",
    "404": "The model does not exist",
    "408": "The body came too slowly",
    "413": "The body or the prompt is too large",
    "415": "The body is compressed",
    "429": "A limit of the key is reached; see Retry-After",
    "502": "The engine failed",
    "503": "No engine can take the request now; see Retry-After",
    "504": "The request's deadline has passed",
}


def body_schema(api: Api, required: tuple[str, ...] = ("model",)) -> dict[str, Any]:
    """The JSON schema of what the gateway reads of a body."""
    fields = CONVERSATION[api.path]
    properties: dict[str, Any] = {"model": {"type": "string"}, **fields}
    if api not in (COUNT_TOKENS, TOKENIZE):
        properties["stream"] = {"type": "boolean"}
    return {"type": "object", "required": [*required, *fields], "properties": properties, "additionalProperties": True}


def request_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def routed_paths() -> dict[str, Any]:
    """The `paths` entries of the routed APIs."""
    return {api.path: {"post": _operation(api)} for api in APIS}


def _operation(api: Api) -> dict[str, Any]:
    media: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if api not in (COUNT_TOKENS, TOKENIZE):
        media["text/event-stream"] = {"schema": {"type": "string"}}
    failed = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    return {
        "tags": ["models"],
        "summary": SUMMARIES[api.path],
        "operationId": api.path.strip("/").replace("/", "_"),
        "requestBody": request_body(body_schema(api)),
        "responses": {
            "200": {"description": "The engine's answer", "content": media},
            **{status: {"description": text, "content": failed} for status, text in ERRORS.items()},
        },
    }
