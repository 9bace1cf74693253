"""What tests ask of /admin, and a gateway with settings of their own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from server.app import create_app
from server.settings import load
from tests.fake_engine import Served
from tests.waiting import wait_until

VERSIONS = "/admin/adapters/legal/versions"


def adapter(http: httpx.Client, name: str = "legal") -> dict[str, Any]:
    return dict(http.get(f"/admin/adapters/{name}").json())


def phase(http: httpx.Client, version: str, name: str = "legal") -> str:
    return str(next(v["phase"] for v in adapter(http, name)["versions"] if v["version"] == version))


def publish(http: httpx.Client, path: Path, name: str = "legal", **more: Any) -> httpx.Response:
    url = f"/admin/adapters/{name}/versions"
    return http.post(url, json={"path": str(path), **more}, params={"wait": True})


def wait_ready(http: httpx.Client) -> None:
    wait_until(lambda: http.get("/ready").status_code == 200)


def wait_routed(http: httpx.Client, route: dict[str, int], name: str = "legal") -> None:
    """Return once the gateway has this route."""
    wait_until(lambda: adapter(http, name)["route"] == route)


@contextlib.contextmanager
def gateway(configuration: dict[str, dict[str, Any]], *engines: str) -> Iterator[httpx.Client]:
    configuration["engine"]["urls"] = list(engines)
    with (
        Served(create_app(load(None, configuration)), lifespan="on") as served,
        httpx.Client(base_url=served.url, timeout=30) as http,
    ):
        wait_ready(http)
        yield http
