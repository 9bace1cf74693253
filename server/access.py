"""Who may do what: from a request's headers to a tenant, its models and its limits."""

import asyncio
import hashlib
import hmac
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from server.errors import Forbidden, InvalidRequest, PromptTooLarge, RateLimited, Unauthorized
from server.keys import Key, environment_keys, read_keys
from server.limits import Bucket
from server.request import RoutedRequest
from server.settings import AccessSettings, SettingsError
from server.table import RouteTable

log = logging.getLogger("zephyra.access")

RawHeaders = Mapping[bytes, bytes]
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# How many leading hexadecimal digits of a digest find its entry; the rest is compared in constant time.
FOUND_BY = 8


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

    def admitted(self) -> Self:
        """A context that counts a request in and out; entering it raises `RateLimited`."""
        return self

    def __enter__(self) -> None:
        self._check_rate()
        self.running += 1

    def __exit__(self, *_: object) -> None:
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
    _file: Path | None = None
    _environment: tuple[Key, ...] = ()
    _stamp: tuple[int, int] = (0, 0)
    _tenants: dict[str, list[Tenant]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: AccessSettings, environment: Mapping[str, str] = os.environ) -> Self:
        """Access as configured. Raises `SettingsError`."""
        keys = tuple(environment_keys(environment))
        access = cls(not keys and settings.keys_file is None, _file=settings.keys_file, _environment=keys)
        access.reload()
        return access

    def reload(self) -> None:
        """Read the key file again if it has changed; what tenants have spent stays. Raises `SettingsError`."""
        stamp = _stamp(self._file)
        if self._tenants and stamp == self._stamp:
            return
        keys = [*self._environment, *(read_keys(self._file) if self._file else ())]
        known = {tenant.key: tenant for tenants in self._tenants.values() for tenant in tenants}
        fresh: dict[str, list[Tenant]] = {}
        for key in keys:
            fresh.setdefault(key.sha256[:FOUND_BY], []).append(known.get(key) or Tenant.of(key))
        self._tenants, self._stamp = fresh, stamp

    async def follow(self, interval: float = 1.0) -> None:
        """Take over changes of the key file, for ever; one that cannot be read leaves all as it is."""
        while self._file is not None:
            await asyncio.sleep(interval)
            try:
                self.reload()
            except SettingsError as error:
                log.warning("the keys stay as they are: %s", error)

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


def _stamp(path: Path | None) -> tuple[int, int]:
    if path is None:
        return 0, 0
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _presented(headers: RawHeaders) -> bytes:
    """The key: `Authorization: Bearer`, or Anthropic's `x-api-key`."""
    authorization = headers.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip()
    return headers.get(b"x-api-key", b"")
