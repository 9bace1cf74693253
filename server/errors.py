"""Every error a client can see.

    ZephyraError                  500  server_error
    ├── InvalidRequest            400  invalid_request_error
    │   ├── BodyTooLarge          413  invalid_request_error
    │   ├── ModelNotFound         404  invalid_request_error   code model_not_found
    │   ├── NotFound              404  invalid_request_error
    │   ├── MethodNotAllowed      405  invalid_request_error
    │   ├── Conflict              409  invalid_request_error   the adapters' state does not allow it
    │   └── AdapterRefused        422  invalid_request_error   an adapter that cannot be served
    ├── Unauthorized              401  authentication_error
    ├── Forbidden                 403  permission_error
    ├── EngineUnavailable         503  service_unavailable     Retry-After
    │   ├── AdapterNotReady       503  service_unavailable     Retry-After
    │   └── StoreUnavailable      503  service_unavailable     Retry-After
    └── EngineFailed              502  engine_error

Each is answered in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.
"""

from typing import ClassVar

import msgspec


class ZephyraError(Exception):
    """An error with the HTTP status and OpenAI `type` it is answered with. `message` tells the client what to do."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retry_after: ClassVar[int | None] = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> bytes:
        """The JSON body, in OpenAI's shape."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"retry-after", str(self.retry_after).encode()))
        return headers


class InvalidRequest(ZephyraError):
    status = 400
    type = "invalid_request_error"


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "body_too_large"


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


class Unauthorized(ZephyraError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ZephyraError):
    status = 403
    type = "permission_error"
    code = "not_permitted"


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


class EngineFailed(ZephyraError):
    status = 502
    type = "engine_error"
    code = "engine_failed"
