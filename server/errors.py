"""Every error a client can see.

    ZephyraError                  500  server_error
    ├── InvalidRequest            400  invalid_request_error
    │   ├── BodyTimeout           408  invalid_request_error   code body_timeout
    │   ├── TooLarge              413  invalid_request_error
    │   │   ├── BodyTooLarge      413                          code body_too_large
    │   │   └── PromptTooLarge    413                          code prompt_too_large
    │   ├── EncodingNotSupported  415  invalid_request_error   code encoding_not_supported
    │   ├── ModelNotFound         404  invalid_request_error   code model_not_found
    │   ├── NotFound              404  invalid_request_error
    │   ├── MethodNotAllowed      405  invalid_request_error
    │   ├── Conflict              409  invalid_request_error   the adapters' state does not allow it
    │   ├── AdapterRefused        422  invalid_request_error   an adapter that cannot be served
    │   └── RouterRefused         422  invalid_request_error   a TinyAda that cannot be served
    ├── Unauthorized              401  authentication_error    code invalid_api_key
    ├── Forbidden                 403  permission_error        code not_permitted
    ├── RateLimited               429  rate_limit_error        Retry-After
    ├── EngineUnavailable         503  service_unavailable     Retry-After
    │   ├── AdapterNotReady       503  service_unavailable     Retry-After
    │   ├── StoreUnavailable      503  service_unavailable     Retry-After
    │   └── Overloaded            503  service_unavailable     Retry-After
    ├── DeadlinePassed            504  timeout_error           code deadline_passed
    └── EngineFailed              502  engine_error

Each is answered in OpenAI's shape, {"error": {"message", "type", "param", "code"}}, and on /v1/messages in
Anthropic's, {"type": "error", "error": {"type", "message"}}.
"""

from typing import ClassVar

import msgspec

# Anthropic's error types by status (docs of the Messages API, "Errors").
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ZephyraError(Exception):
    """An error with the HTTP status and OpenAI `type` it is answered with. `message` tells the client what to do."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    # Seconds after which trying again may help.
    retry_after: int | None = None

    def __init__(self, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after is not None:
            self.retry_after = retry_after

    def body(self) -> bytes:
        """The JSON body, in OpenAI's shape."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def anthropic_body(self) -> bytes:
        """The JSON body, in Anthropic's shape."""
        fallback = "invalid_request_error" if self.status < 500 else "api_error"
        error = {"type": ANTHROPIC_TYPES.get(self.status, fallback), "message": self.message}
        return msgspec.json.encode({"type": "error", "error": error})

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"retry-after", str(self.retry_after).encode()))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


class InvalidRequest(ZephyraError):
    status = 400
    type = "invalid_request_error"


class BodyTimeout(InvalidRequest):
    status = 408
    code = "body_timeout"


class TooLarge(InvalidRequest):
    status = 413


class BodyTooLarge(TooLarge):
    code = "body_too_large"


class PromptTooLarge(TooLarge):
    code = "prompt_too_large"


class EncodingNotSupported(InvalidRequest):
    status = 415
    code = "encoding_not_supported"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"

    def __init__(self, name: str) -> None:
        shown = name if len(name) <= 100 else name[:100] + "..."
        super().__init__(f"The model {shown!r} does not exist. GET /v1/models lists those you can use.", "model")


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class Conflict(InvalidRequest):
    status = 409
    code = "conflict"


class AdapterRefused(InvalidRequest):
    status = 422
    code = "adapter_refused"


class RouterRefused(InvalidRequest):
    status = 422
    code = "router_refused"


class Unauthorized(ZephyraError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ZephyraError):
    status = 403
    type = "permission_error"
    code = "not_permitted"


class RateLimited(ZephyraError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after = 1


class EngineUnavailable(ZephyraError):
    status = 503
    type = "service_unavailable"
    code = "engine_unavailable"
    retry_after = 5


class AdapterNotReady(EngineUnavailable):
    code = "adapter_not_ready"
    retry_after = 2


class StoreUnavailable(EngineUnavailable):
    code = "store_unavailable"


class Overloaded(EngineUnavailable):
    code = "overloaded"
    retry_after = 1


class DeadlinePassed(ZephyraError):
    status = 504
    type = "timeout_error"
    code = "deadline_passed"


class EngineFailed(ZephyraError):
    status = 502
    type = "engine_error"
    code = "engine_failed"
