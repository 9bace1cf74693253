"""Live adapters on the real engine: proof of difference, swaps under streams, no stale prefix cache, refusals."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapters.evaluation import exam_questions
from tests.engine.conftest import ROOT, System
from tests.waiting import wait_until

BUNDLE = ROOT / "adapters" / "bundle"
CHAT = "/v1/chat/completions"
# More than 128 tokens: a block of the prefix cache on CPU.
LONG = "The tenant paid the rent on time and the landlord did not repair the heating. " * 16 + "Who is right?"
SWAPS = 6


@pytest.fixture
def http(system: System) -> Iterator[httpx.Client]:
    system.wait_ready()
    with httpx.Client(base_url=system.url, timeout=300) as client:
        yield client


@pytest.fixture
def tax(http: httpx.Client) -> Iterator[tuple[str, str]]:
    """The two versions of an adapter of no domain, the first one served; removed afterwards."""
    first, second = (publish(http, BUNDLE / name).json()["version"] for name in ("medical", "code"))
    route(http, first)
    yield first, second
    http.delete("/admin/adapters/tax")
    wait_until(lambda: http.get("/admin/adapters/tax").status_code == 404, seconds=60)


def publish(http: httpx.Client, path: Path, name: str = "tax") -> httpx.Response:
    return http.post(f"/admin/adapters/{name}/versions", json={"path": str(path)}, params={"wait": True})


def route(http: httpx.Client, version: str) -> None:
    reply = http.put("/admin/adapters/tax/route", json={"weights": {version: 100}}, params={"wait": True})
    assert reply.json()["route"] == {version: 100}


def ask(http: httpx.Client, text: str = LONG, model: str = "tax") -> tuple[str, str]:
    """The answer, and the version that the header names."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    reply = http.post(CHAT, json={**body, "temperature": 0, "max_tokens": 24})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"], reply.headers["x-zephyra-adapter"].partition("@")[2]


def test_every_shipped_adapter_proved_that_it_differs(http: httpx.Client) -> None:
    for adapter in http.get("/admin/adapters").json()["adapters"]:
        (serving,) = (version for version in adapter["versions"] if version["phase"] == "serving")
        reasons = {entry["phase"]: entry["reason"] for entry in serving["history"]}
        assert reasons["ready"].startswith("differs from the base by")


def test_no_stale_prefix_cache_after_swap_and_rollback(http: httpx.Client, tax: tuple[str, str]) -> None:
    first, second = tax
    alone = ask(http)
    assert alone[1] == first
    route(http, second)
    other = ask(http)
    assert other[1] == second
    assert other[0] != alone[0]
    assert http.post("/admin/adapters/tax/rollback", params={"wait": True}).status_code == 200
    assert ask(http) == alone
    route(http, second)
    assert ask(http) == other


def test_swaps_while_requests_run(http: httpx.Client, tax: tuple[str, str]) -> None:
    stop, findings = threading.Event(), []
    seen: list[str | None] = []

    def keep_asking() -> None:
        with httpx.Client(base_url=http.base_url, timeout=300) as client:
            while not stop.is_set():
                body = {"model": "tax", "messages": [{"role": "user", "content": "Who pays?"}], "stream": True}
                reply = client.post(CHAT, json={**body, "max_tokens": 16, "temperature": 0})
                seen.append(reply.headers.get("x-zephyra-adapter"))
                if reply.status_code != 200 or '"error"' in reply.text or "data: [DONE]" not in reply.text:
                    findings.append(reply.text[-300:])

    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(SWAPS):
            version = tax[(number + 1) % 2]
            route(http, version)
            before = len(seen)
            wait_until(lambda version=version, before=before: f"tax@{version}" in seen[before:])  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert findings == []
    assert set(seen) == {f"tax@{version}" for version in tax}


def test_an_adapter_without_effect_is_refused_by_the_proof(http: httpx.Client, tmp_path: Path) -> None:
    """Not all zero, so that only the engine can tell: its B is far below what any sum notices."""
    directory = tmp_path / "faint"
    directory.mkdir()
    tensors = load_file(BUNDLE / "legal" / "adapter_model.safetensors")
    faint = {key: value * np.float32(1e-30) if "lora_B" in key else value for key, value in tensors.items()}
    save_file(faint, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_bytes((BUNDLE / "legal" / "adapter_config.json").read_bytes())
    reply = publish(http, directory, "faint")
    assert reply.status_code == 422
    assert "answers as the base" in reply.json()["error"]["message"]
    http.delete("/admin/adapters/faint")
    wait_until(lambda: http.get("/admin/adapters/faint").status_code == 404, seconds=60)


def test_an_adapter_serves_only_if_it_passes_the_exam_it_brings(http: httpx.Client, tmp_path: Path) -> None:
    questions = exam_questions("legal", 3)
    exam = "\n".join(json.dumps({"prompt": each.prompt, "expected": each.answer}) for each in questions)
    replies = {}
    for name in ("legal", "code"):
        directory = tmp_path / name
        shutil.copytree(BUNDLE / name, directory)
        (directory / "manifest.json").write_text('{"exam": "exam.jsonl"}')
        (directory / "exam.jsonl").write_text(exam)
        replies[name] = publish(http, directory, f"{name}-examined")
    assert replies["legal"].status_code == 200, replies["legal"].text
    assert replies["code"].status_code == 422
    assert "it passed 0 of 3 questions of its exam" in replies["code"].json()["error"]["message"]
    for name in replies:
        remove(http, f"{name}-examined")


def test_loads_and_unloads_leave_nothing_behind(http: httpx.Client) -> None:
    before = {each["name"] for each in http.get("/admin/engines").json()[0]["adapters"]}
    for source in ("medical", "code", "medical"):
        assert publish(http, BUNDLE / source, "passing").status_code == 200
        assert ask(http, "Who pays?", "passing")[1]
        remove(http, "passing")
    assert {each["name"] for each in http.get("/admin/engines").json()[0]["adapters"]} == before


def remove(http: httpx.Client, name: str) -> None:
    """Remove an adapter; returns once its files are gone."""
    assert http.delete(f"/admin/adapters/{name}").status_code == 202
    wait_until(lambda: http.get(f"/admin/adapters/{name}").status_code == 404)
