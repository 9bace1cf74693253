"""TinyAda swapped, refused, rolled back and compared with another, while requests are answered."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from router import TinyAda
from router.manifest import MANIFEST, SHIPPED, TABLES, read_manifest
from server.app import create_app
from server.cli import app
from server.settings import load
from tests.fake_engine import Served
from tests.integration.conftest import PROMPTS
from tests.waiting import wait_until

Variant = Callable[..., Path]


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    """Makes a copy of the shipped TinyAda with other values in its manifest."""

    def make(name: str, policy: dict[str, Any] | None = None, **values: Any) -> Path:
        directory = Path(shutil.copytree(SHIPPED, tmp_path / name))
        stored = json.loads((directory / MANIFEST).read_text())
        stored["policy"] |= policy or {}
        (directory / MANIFEST).write_text(json.dumps({**stored, **values}))
        return directory

    return make


@pytest.fixture
def second(variant: Variant) -> Path:
    """Decides otherwise: it never gives the code adapter a prompt, and its smoke set says so."""
    manifest = read_manifest(SHIPPED)
    smoke = [[text, domain] for text, domain in manifest.smoke if domain != "code"]
    return variant("second", {"thresholds": {**manifest.policy.thresholds, "code": 1.0}}, smoke=smoke)


def ask(http: httpx.Client, domain: str = "code") -> httpx.Response:
    body = {"model": "zephyra-resolve", "messages": [{"role": "user", "content": PROMPTS[domain]}]}
    return http.post("/v1/chat/completions", json=body)


def shown(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/admin/router").json()
    return found


def metric(http: httpx.Client, name: str) -> dict[str, float]:
    lines = http.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}


def audited(configuration: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    log = Path(configuration["store"]["path"]) / "audit.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [(line["what"], line["from"], line["to"]) for line in lines]


def test_a_swap_replaces_what_decides_and_a_rollback_undoes_it(
    http: httpx.Client, second: Path, configuration: dict[str, dict[str, Any]]
) -> None:
    shipped, new = TinyAda.load().digest, read_manifest(second).digest
    before = shown(http)
    assert (before["digest"], before["desired"], before["previous"]) == (shipped, "shipped", None)
    threshold = read_manifest(SHIPPED).policy.thresholds["code"]
    assert {"domain": "code", "adapter": "code", "threshold": threshold} in before["domains"]
    assert ask(http).headers["x-zephyra-adapter"].startswith("code@")
    assert http.post("/admin/router/rollback").status_code == 409

    reply = http.post("/admin/router", json={"path": str(second)})
    assert (reply.status_code, reply.json()["digest"], reply.json()["previous"]) == (200, new, "shipped")
    answer = ask(http)
    assert (answer.headers["x-zephyra-reason"], answer.headers["x-zephyra-adapter"]) == ("abstained", "zephyra")
    assert metric(http, "zephyra_router_info") == {
        f'zephyra_router_info{{digest="{new}",role="serving"}}': 1.0,
    }

    assert http.post("/admin/router/rollback").json()["digest"] == shipped
    assert ask(http).headers["x-zephyra-adapter"].startswith("code@")
    assert audited(configuration) == [("swap router", "", new), ("roll back router", new, "")]


def test_what_serves_survives_the_loss_of_its_source(http: httpx.Client, second: Path) -> None:
    """The files are mapped: were they the operator's own, truncating them would end the process."""
    assert http.post("/admin/router", json={"path": str(second)}).status_code == 200
    (second / TABLES).write_bytes(b"")
    shutil.rmtree(second)
    for domain in PROMPTS:
        assert ask(http, domain).status_code == 200


def test_a_bad_one_leaves_the_old_serving_and_says_why(http: httpx.Client, second: Path, tmp_path: Path) -> None:
    for case, (spoil, status, said) in enumerate(SPOILT):
        bad = Path(shutil.copytree(second, tmp_path / f"bad-{case}"))
        spoil(bad)
        reply = http.post("/admin/router", json={"path": str(bad)})
        assert (reply.status_code, said in reply.json()["error"]["message"]) == (status, True), reply.text
        assert shown(http)["digest"] == TinyAda.load().digest
        assert ask(http).headers["x-zephyra-adapter"].startswith("code@")
    refused = {'zephyra_router_swaps_total{outcome="refused"}': float(len(SPOILT))}
    assert metric(http, "zephyra_router_swaps_total") == refused


def edit(path: Path, policy: dict[str, Any] | None = None, **values: Any) -> None:
    stored = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**stored, **values, "policy": {**stored["policy"], **(policy or {})}}))


def rename_label(path: Path, old: str, new: str) -> None:
    text = (path / MANIFEST).read_text().replace(f'"{old}"', f'"{new}"')
    (path / MANIFEST).write_text(text)


def link(path: Path) -> None:
    (path / TABLES).rename(path / "elsewhere")
    (path / TABLES).symlink_to(path / "elsewhere")


SPOILT: list[tuple[Callable[[Path], object], int, str]] = [
    (lambda path: (path / MANIFEST).unlink(), 422, "holds no manifest.json"),
    (lambda path: (path / TABLES).write_bytes(b"x"), 422, "is not the file that the manifest was written for"),
    (lambda path: edit(path, smoke=[["Solve 2x = 4 for x.", "legal"]]), 422, "went to math, not to legal"),
    (lambda path: edit(path, policy={"temperature": -1}), 422, "temperature must be above 0"),
    (lambda path: rename_label(path, "legal", "law"), 409, "knows no 'legal' (legal)"),
    (link, 422, "symbolic link"),
]


def test_only_allowed_directories(http: httpx.Client) -> None:
    for path in ("second", "/etc", "/nowhere", ""):
        reply = http.post("/admin/router", json={"path": path})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "router_refused")


def test_no_request_fails_while_it_is_swapped(http: httpx.Client, gateway_url: str, second: Path) -> None:
    stop = threading.Event()
    statuses: list[int] = []

    def traffic() -> None:
        with httpx.Client(base_url=gateway_url, timeout=30) as client:
            while not stop.is_set():
                statuses.append(ask(client).status_code)

    threads = [threading.Thread(target=traffic) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert http.post("/admin/router", json={"path": str(second)}).status_code == 200
        assert http.post("/admin/router/rollback").status_code == 200
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}


def test_every_gateway_of_a_store_follows_and_a_restart_keeps_it(
    configuration: dict[str, dict[str, Any]], engine_url: str, second: Path
) -> None:
    configuration["engine"]["urls"] = [engine_url]
    settings = load(None, configuration)
    new = read_manifest(second).digest
    with (
        Served(create_app(settings), lifespan="on") as one,
        Served(create_app(settings), lifespan="on") as two,
        httpx.Client(base_url=two.url, timeout=30) as other,
    ):
        assert httpx.post(f"{one.url}/admin/router", json={"path": str(second)}, timeout=30).status_code == 200
        wait_until(lambda: shown(other)["digest"] == new)
    with Served(create_app(settings), lifespan="on") as again, httpx.Client(base_url=again.url, timeout=30) as http:
        assert (shown(http)["digest"], shown(http)["previous"]) == (new, "shipped")


@pytest.fixture
def configured(
    configuration: dict[str, dict[str, Any]], engine_url: str, variant: Variant
) -> Iterator[tuple[httpx.Client, Path]]:
    """A gateway whose configuration names a TinyAda, and that one's directory."""
    directory = variant("mine", {"margin": 0.25})
    configuration["engine"]["urls"] = [engine_url]
    configuration["router"] = {"path": str(directory)}
    with (
        Served(create_app(load(None, configuration)), lifespan="on") as served,
        httpx.Client(base_url=served.url, timeout=30) as http,
    ):
        yield http, directory


def test_new_files_in_the_configured_directory_are_served(
    configured: tuple[httpx.Client, Path], second: Path, configuration: dict[str, dict[str, Any]]
) -> None:
    http, directory = configured
    first, new = read_manifest(directory).digest, read_manifest(second).digest
    assert (shown(http)["digest"], shown(http)["desired"]) == (first, first)
    (directory / MANIFEST).write_text("{")
    wait_until(lambda: "cannot be read" in shown(http)["problem"])
    assert shown(http)["digest"] == first
    shutil.copytree(second, directory, dirs_exist_ok=True)
    wait_until(lambda: bool(shown(http)["digest"] == new))
    assert shown(http)["problem"] == ""
    assert ask(http).headers["x-zephyra-reason"] == "abstained"
    assert [what[::2] for what in audited(configuration)] == [("swap router", str(directory)), ("swap router", new)]


def test_a_shadow_counts_disagreement_and_changes_nothing(
    http: httpx.Client, second: Path, configuration: dict[str, dict[str, Any]]
) -> None:
    reply = http.put("/admin/router/shadow", json={"path": str(second)})
    assert reply.status_code == 200
    new = read_manifest(second).digest
    assert reply.json()["shadow"] == {"digest": new, "compared": 0, "disagreed": 0, "dropped": 0}
    assert reply.json()["digest"] == TinyAda.load().digest
    for domain in ("code", "code", "sql"):
        assert ask(http, domain).headers["x-zephyra-adapter"].startswith(f"{domain}@")
    named = {"model": "code", "messages": [{"role": "user", "content": PROMPTS["code"]}]}
    assert http.post("/v1/chat/completions", json=named).status_code == 200
    wait_until(lambda: shown(http)["shadow"]["compared"] == 3)
    assert shown(http)["shadow"]["disagreed"] == 2
    assert metric(http, "zephyra_shadow_decisions_total") == {
        'zephyra_shadow_decisions_total{served="code",shadow="general"}': 2.0,
        'zephyra_shadow_decisions_total{served="sql",shadow="sql"}': 1.0,
    }
    assert metric(http, "zephyra_router_info")[f'zephyra_router_info{{digest="{new}",role="shadow"}}'] == 1.0
    assert http.delete("/admin/router/shadow").json()["shadow"] is None
    ask(http)
    assert len(metric(http, "zephyra_router_info")) == 1
    assert audited(configuration) == [("shadow router", "", new), ("shadow router", new, "")]


def test_a_configured_shadow(configuration: dict[str, dict[str, Any]], engine_url: str, second: Path) -> None:
    configuration["engine"]["urls"] = [engine_url]
    configuration["router"] = {"shadow": str(second)}
    settings = load(None, configuration)
    with Served(create_app(settings), lifespan="on") as served, httpx.Client(base_url=served.url, timeout=30) as http:
        wait_until(lambda: shown(http)["shadow"] is not None)
        wait_until(lambda: http.get("/ready").status_code == 200)
        ask(http)
        wait_until(lambda: shown(http)["shadow"]["disagreed"] == 1)


def run(url: str, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["router", *arguments, "--url", url])
    return result.exit_code, result.output


def test_the_command_line(gateway_url: str, second: Path, tmp_path: Path) -> None:
    shipped, new = TinyAda.load().digest, read_manifest(second).digest
    assert run(gateway_url, "swap", str(second)) == (0, f"TinyAda {new} serves; before it, shipped\n")
    assert run(gateway_url, "rollback") == (0, f"TinyAda {shipped} serves; before it, {new}\n")
    assert run(gateway_url, "shadow", str(second)) == (0, f"TinyAda {new} decides in the shadow of {shipped}\n")
    code, text = run(gateway_url, "show")
    assert code == 0
    assert f"TinyAda {shipped} serves" in text
    assert f"shadow {new}: 0 compared, 0 disagreed, 0 dropped" in text
    assert run(gateway_url, "shadow") == (0, "no TinyAda is compared\n")
    code, text = run(gateway_url, "swap", str(tmp_path))
    assert code == 1
    assert "holds no manifest.json" in text
