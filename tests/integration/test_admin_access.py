"""Who may use /admin, the audit log, and the command line that speaks to it."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from server.admin_access import is_loopback
from server.app import create_app
from server.cli import app
from server.settings import ADMIN_KEY_VARIABLE, load
from tests.fake_engine import Served
from tests.integration.conftest import make_adapter
from tests.waiting import wait_until

KEY = "an-admin-key"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"x-forwarded-for": "203.0.113.7"}, 403),
        ({"forwarded": "for=203.0.113.7"}, 403),
        ({"host": "rebound.example"}, 403),
        ({"origin": "https://elsewhere.example"}, 403),
    ],
)
def test_without_a_key_only_local_programs(http: httpx.Client, headers: dict[str, str], status: int) -> None:
    reply = http.get("/admin/adapters", headers=headers)
    assert reply.status_code == status
    if status == 403:
        assert "configure a key" in reply.json()["error"]["message"]


def test_the_console_of_this_origin_may(http: httpx.Client) -> None:
    assert http.get("/admin/adapters", headers={"origin": str(http.base_url).rstrip("/")}).status_code == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("", False)],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_with_a_key_nobody_else(configuration: dict[str, Any], engine_url: str) -> None:
    configuration["engine"]["urls"] = [engine_url]
    configuration["admin"] = {"key": KEY}
    with (
        Served(create_app(load(None, configuration)), lifespan="on") as served,
        httpx.Client(base_url=served.url) as http,
    ):
        for value in (None, "", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", KEY):
            headers = {"authorization": value} if value is not None else {}
            for method, path in (("GET", "adapters"), ("DELETE", "adapters/legal"), ("GET", "engines")):
                assert http.request(method, f"/admin/{path}", headers=headers).status_code == 401
        assert http.get("/admin/adapters", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, KEY)
    assert load().admin.key == KEY
    assert load(None, {"admin": {"key": "another-key"}}).admin.key == "another-key"


def test_every_change_is_in_the_audit_log(
    http: httpx.Client, tmp_path: Path, configuration: dict[str, dict[str, Any]]
) -> None:
    second = make_adapter(tmp_path / "second", seed=99)
    old = http.get("/admin/adapters/legal").json()["versions"][0]["version"]
    new = http.post("/admin/adapters/legal/versions?wait=true", json={"path": str(second)}).json()["version"]
    http.post("/admin/adapters/legal/rollback", params={"wait": True})
    http.delete("/admin/adapters/sql")
    http.post("/admin/adapters/sql2/versions", json={"path": "/etc"})
    log = Path(configuration["store"]["path"]) / "audit.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["what"], line["adapter"]) for line in lines] == [
        ("publish", "legal"),
        ("rollback", "legal"),
        ("remove", "sql"),
    ]
    assert (lines[0]["from"], lines[0]["to"]) == ({old: 100}, {new: 100})
    assert (lines[1]["from"], lines[1]["to"]) == ({new: 100}, {old: 100})
    assert {line["who"] for line in lines} == {"loopback"}


def test_admin_is_documented(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert set(paths["/admin/adapters/{name}/versions"]) == {"post"}
    assert {"/admin/adapters", "/admin/adapters/{name}/route", "/admin/engines", "/admin/router"} <= set(paths)


def run(url: str, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["adapters", *arguments, "--url", url])
    return result.exit_code, result.output


def test_the_command_line_does_it_all(gateway_url: str, tmp_path: Path, http: httpx.Client) -> None:
    second = make_adapter(tmp_path / "second", seed=99)
    old = http.get("/admin/adapters/legal").json()["versions"][0]["version"]
    code, text = run(gateway_url, "list")
    assert code == 0
    assert f"{old}  serving" in text
    code, text = run(gateway_url, "publish", "legal", str(second), "--no-activate")
    assert code == 0
    new = text.split("@")[1][:12]
    assert text.startswith(f"legal@{new}  ready  differs from the base")
    assert run(gateway_url, "route", "legal", f"{old}=95", f"{new}=5") == (
        0,
        f"legal is served by {old} 95, {new} 5\n",
    )
    assert run(gateway_url, "rollback", "legal") == (0, f"legal is served by {old} 100\n")
    assert run(gateway_url, "route", "legal", "x=y")[0] == 1
    code, text = run(gateway_url, "remove", "legal", old)
    assert code == 1
    assert "being served" in text
    assert run(gateway_url, "remove", "legal", new) == (0, f"legal@{new} drains and is then removed\n")
    wait_until(lambda: len(http.get("/admin/adapters/legal").json()["versions"]) == 1)
    assert run(gateway_url, "remove", "legal")[0] == 0
    wait_until(lambda: http.get("/admin/adapters/legal").status_code == 404)


def test_the_command_line_without_a_gateway() -> None:
    code, text = run("http://127.0.0.1:1", "list")
    assert code == 1
    assert "no gateway answers at http://127.0.0.1:1" in text
