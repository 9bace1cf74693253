"""Adapters, names, paths and changes that /admin refuses, each with its own message."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.fake_engine import FakeEngine
from tests.integration.administration import VERSIONS, adapter, phase, publish
from tests.integration.conftest import make_adapter
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until


def rewrite(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def reweigh(directory: Path, change: Callable[[str, Any], Any], rename: Callable[[str], str] = str) -> None:
    path = directory / "adapter_model.safetensors"
    save_file({rename(key): change(key, value) for key, value in load_file(path).items()}, path)


def truncated(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


def linked(directory: Path) -> None:
    path = directory / "adapter_config.json"
    path.rename(directory.parent / "elsewhere.json")
    path.symlink_to(directory.parent / "elsewhere.json")


def of_another_base(directory: Path) -> None:
    reweigh(directory, lambda key, value: value if "lora_A" in key else np.ones((32, 8), np.float32))


def of_high_rank(directory: Path) -> None:
    shutil.rmtree(directory)
    make_adapter(directory, rank=600)


def of_unknown_modules(directory: Path) -> None:
    reweigh(directory, lambda key, value: value, lambda key: key.replace("q_proj", "w_proj"))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "truncated"),
    "other base": (of_another_base, "in this base"),
    "rank": (of_high_rank, "rank 600 is above"),
    "DoRA": (lambda d: rewrite(d, lambda c: c.update(use_dora=True)), "DoRA"),
    "zero B": (lambda d: reweigh(d, lambda k, v: v * ("lora_A" in k)), "every lora_B is zero"),
    "NaN": (lambda d: reweigh(d, lambda k, v: v * np.float32("nan")), "NaN"),
    "no module": (of_unknown_modules, "no layer of this base"),
    "pickle": (pickled, "pickle"),
    "link": (linked, "symbolic link"),
    "missing": (shutil.rmtree, "is not a directory"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_adapters_are_refused_with_their_own_message(
    http: httpx.Client, fake: FakeEngine, second: Path, kind: str
) -> None:
    damage, finding = BROKEN[kind]
    damage(second)
    reply = publish(http, second)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (422, "adapter_refused")
    assert finding in error["message"]
    assert len(adapter(http)["versions"]) == 1
    assert http.post(CHAT, json=body("legal")).status_code == 200
    assert len(fake.loads) == 8


def test_an_adapter_equal_to_the_base_is_refused(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    before = served_by(http.post(CHAT, json=body("legal")))
    version = publish(http, second, activate=False).json()["version"]
    assert http.delete(f"{VERSIONS}/{version}").status_code == 202
    wait_until(lambda: len(adapter(http)["versions"]) == 1)
    fake.like_base.add(f"legal@{version}")
    reply = publish(http, second)
    assert reply.status_code == 422
    assert "answers as the base" in reply.json()["error"]["message"]
    assert phase(http, version) == "failed"
    assert served_by(http.post(CHAT, json=body("legal"))) == before
    wait_until(lambda: f"legal@{version}" not in fake.adapters)


def test_an_engines_refusal_fails_the_version(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    version = publish(http, second, activate=False).json()["version"]
    http.delete(f"{VERSIONS}/{version}")
    wait_until(lambda: len(adapter(http)["versions"]) == 1)
    fake.refuse.add(f"legal@{version}")
    reply = publish(http, second)
    assert reply.status_code == 422
    assert "max_lora_rank" in reply.json()["error"]["message"]
    fake.refuse.clear()
    assert publish(http, second).json()["phase"] == "serving"


@pytest.mark.parametrize(
    ("name", "path", "finding"),
    [
        ("text", None, "reserved"),
        ("zephyra", None, "reserved"),
        ("general", None, "reserved"),
        ("Legal", None, "use a to z"),
        ("a,b", None, "use a to z"),
        ("legal", "relative/path", "must be absolute"),
        ("legal", "/tmp/../etc", "without '..'"),
        ("legal", "/etc", "store.sources"),
    ],
)
def test_names_and_paths(http: httpx.Client, second: Path, name: str, path: str | None, finding: str) -> None:
    reply = publish(http, Path(path) if path else second, name)
    assert reply.status_code == 422
    assert finding in reply.json()["error"]["message"]


def test_refusals_of_the_state(http: httpx.Client, second: Path) -> None:
    old = adapter(http)["versions"][0]["version"]
    assert http.delete(f"{VERSIONS}/{old}").status_code == 409
    assert http.delete(f"{VERSIONS}/{'0' * 12}").status_code == 404
    assert http.delete("/admin/adapters/none").status_code == 404
    assert http.post("/admin/adapters/legal/rollback").status_code == 409
    assert http.put("/admin/adapters/legal/route", json={"weights": {}}).status_code == 409
    assert http.put("/admin/adapters/legal/route", json={"weights": {"0" * 12: 1}}).status_code == 404
    assert http.put("/admin/adapters/legal/route", json={"weight": {}}).status_code == 400
    assert publish(http, second, "law", domain="legal").status_code == 409
    assert publish(http, second, "law", domain="astrology").status_code == 422
    assert http.get("/admin/adapters/law").status_code == 404
