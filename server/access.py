"""Who may do what: from a request's headers to a tenant, its models and its limits."""

import hashlib
import hmac
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from server.errors import Forbidden, InvalidRequest, PromptTooLarge, RateLimited, Unauthorized
from server.keys import Key, environment_keys, read_keys
from server.limits import Bucket
from server.request import RoutedRequest
from server.settings import AccessSettings, SettingsError
from server.table import RouteTable

RawHeaders = Mapping[bytes, bytes]
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# How many leading hexadecimal digits of a digest find its entry; the rest is compared in constant time.
FOUND_BY = 8
BYTES_PER_TOKEN = 4


@dataclass(slots=True, eq=False)
class Tenant:
    """A key in use: its entry, what it has spent, what runs for it."""

    key: Key
    running: int = 0
    _requests: Bucket | None = None
    _tokens: Bucket | None = None
    # The route table as this tenant sees it, and the table that it was made of.
    _view: tuple[RouteTable, RouteTable] | None = None

    @classmethod
    def of(cls, key: Key) -> Self:
        requests = Bucket(key.requests_per_minute) if key.requests_per_minute else None
        tokens = Bucket(key.tokens_per_minute) if key.tokens_per_minute else None
        return cls(key, 0, requests, tokens)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request in and out. Raises `RateLimited`."""
        self._check_rate()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def check(self, request: RoutedRequest) -> RoutedRequest:
        """The request within the key's sizes, its output bounded. Raises `PromptTooLarge`, `InvalidRequest`."""
        key = self.key
        if key.max_prompt_bytes is not None and request.prompt_bytes > key.max_prompt_bytes:
            raise PromptTooLarge(f"The prompt has more than {key.max_prompt_bytes} bytes, this key's limit. Send less.")
        if key.max_output_tokens is None or not request.api.output:
            return request
        asked = request.output_tokens()
        if asked is None:
            return request.with_output_limit(key.max_output_tokens)
        if asked > key.max_output_tokens:
            name = request.api.output[0]
            raise InvalidRequest(f"This key's answers may have {key.max_output_tokens} tokens; ask for less.", name)
        return request

    def spend(self, tokens: int) -> None:
        """Charge a request's tokens, known at its end."""
        if self._tokens is not None:
            self._tokens.spend(tokens)

    def sees(self, table: RouteTable) -> RouteTable:
        """The table without what this key may not use."""
        if self.key.models is None:
            return table
        if self._view is None or self._view[0] is not table:
            self._view = table, table.restricted(self.key.models)
        return self._view[1]

    def _check_rate(self) -> None:
        key = self.key
        if key.max_concurrent is not None and self.running >= key.max_concurrent:
            raise RateLimited(f"This key may have {key.max_concurrent} requests running. Try again when one has ended.")
        if self._tokens is not None and (wait := self._tokens.wait(1)):
            limit = f"This key may use {key.tokens_per_minute} tokens a minute"
            raise RateLimited(f"{limit}. Try again later.", retry_after=math.ceil(wait))
        if self._requests is not None:
            if wait := self._requests.wait(1):
                limit = f"This key may send {key.requests_per_minute} requests a minute"
                raise RateLimited(f"{limit}. Try again later.", retry_after=math.ceil(wait))
            self._requests.spend(1)


ANYONE = Key(name="anyone", sha256="0" * 64, may_bypass=True, may_observe=True)


@dataclass(slots=True)
class Access:
    """The tenants by their keys; `open` where no key is configured, so that anyone is served."""

    open: bool = True
    anyone: Tenant = field(default_factory=lambda: Tenant.of(ANYONE))
    _tenants: dict[str, list[Tenant]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: AccessSettings, environment: Mapping[str, str] = os.environ) -> Self:
        """Access as configured. Raises `SettingsError`."""
        keys = environment_keys(environment)
        if settings.keys_file is not None:
            keys += read_keys(settings.keys_file)
        access = cls(open=not keys and settings.keys_file is None)
        for key in keys:
            access._tenants.setdefault(key.sha256[:FOUND_BY], []).append(Tenant.of(key))
        return access

    def tenant(self, headers: RawHeaders) -> Tenant:
        """Whose request it is. Raises `Unauthorized`, `Forbidden`."""
        if self.open:
            return self.anyone
        presented = _presented(headers)
        if not presented:
            raise Unauthorized("An API key is required: send 'Authorization: Bearer KEY'.")
        digest = hashlib.sha256(presented).hexdigest()
        for tenant in self._tenants.get(digest[:FOUND_BY], ()):
            if hmac.compare_digest(tenant.key.sha256, digest):
                if tenant.key.disabled:
                    raise Forbidden("This API key is disabled. Ask the operator for another.")
                return tenant
        raise Unauthorized("The API key is not valid. Check it, or ask the operator for one.")


def check_listening(settings: AccessSettings, host: str, access: Access) -> None:
    """Without keys only this machine may be served, unless asked otherwise by name. Raises `SettingsError`."""
    if access.open and host not in LOOPBACK and not settings.allow_anonymous:
        raise SettingsError(
            f"gateway.host: {host} can be reached from elsewhere and no API key is configured; create one with "
            "`zephyra keys create` and name its file in access.keys_file, or pass --allow-anonymous"
        )


def _presented(headers: RawHeaders) -> bytes:
    """The key: `Authorization: Bearer`, or Anthropic's `x-api-key`."""
    authorization = headers.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip()
    return headers.get(b"x-api-key", b"")
