"""Who may use /admin: holders of the key, or, where none is configured, programs on this machine."""

import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

from server.errors import Forbidden, Unauthorized
from server.gateway import Gateway

# A proxy on this machine would make every client look local.
PROXY_HEADERS = ("x-forwarded-for", "forwarded", "x-real-ip")


async def administrator(request: Request) -> str:
    """Who asks, for the audit log. Raises `Unauthorized`, `Forbidden`."""
    gateway: Gateway = request.state.gateway
    key = gateway.settings.admin.key
    if key is None:
        _check_local(request)
        return "loopback"
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise Unauthorized("/admin takes the key of admin.key as 'Authorization: Bearer KEY'.")
    return f"key {hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _check_local(request: Request) -> None:
    reason = "Without admin.key only programs on this machine may use /admin; configure a key."
    proxied = any(name in request.headers for name in PROXY_HEADERS)
    if proxied or request.client is None or not is_loopback(request.client.host):
        raise Forbidden(reason)
    # A web page in a browser on this machine is no program on it: not from elsewhere, nor by a rebound name.
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if not is_loopback(urlsplit(f"//{host}").hostname or "") or (origin and urlsplit(origin).netloc != host):
        raise Forbidden(reason)


def is_loopback(host: str) -> bool:
    """Whether `host` is a loopback address or `localhost`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
