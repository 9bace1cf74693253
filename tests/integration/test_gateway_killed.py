"""A gateway killed outright at each step of a change: afterwards the route is the old one or the new one, all of it."""

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.store import MANIFEST, Store
from adapters.version import digest
from tests.fake_engine import FakeEngine
from tests.integration.conftest import make_adapter
from tests.integration.test_chat import CHAT, body, served_by
from tests.killed_gateway import NAME, STEPS, Change, gateway_process
from tests.waiting import wait_until


class Asking:
    """Asks without end until the gateway is gone; `wrong` are answers by another version than the header's."""

    def __init__(self, http: httpx.Client) -> None:
        self.url, self.versions, self.wrong = str(http.base_url), set[str](), list[str]()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http, contextlib.suppress(httpx.TransportError):
            while True:
                reply = http.post(CHAT, json=body(NAME))
                if reply.status_code != 200 or served_by(reply) != reply.headers["x-zephyra-adapter"]:
                    self.wrong.append(f"{reply.status_code} {reply.headers} {reply.text}")
                self.versions.add(reply.headers.get("x-zephyra-adapter", ""))

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def change(configuration: dict[str, dict[str, Any]], engine_url: str, tmp_path: Path) -> Change:
    """The gateway with one adapter alone, and a second version of it in `second`."""
    configuration["adapters"] = {NAME: configuration["adapters"][NAME]}
    configuration["engine"]["urls"] = [engine_url]
    second = make_adapter(tmp_path / "second", seed=99)
    return Change(digest(Path(configuration["adapters"][NAME]["path"])), digest(second))


def go_through(http: httpx.Client, change: Change, second: Path) -> None:
    """The whole change: the new version in, the old one out, down to its files. The gateway dies on the way."""
    with contextlib.suppress(httpx.TransportError):
        http.post(f"/admin/adapters/{NAME}/versions", json={"path": str(second)})
        wait_until(lambda: old_phase(http, change) == "retired")
        http.delete(f"/admin/adapters/{NAME}/versions/{change.old}")
        wait_until(lambda: old_phase(http, change) is None)


def old_phase(http: httpx.Client, change: Change) -> str | None:
    versions = http.get(f"/admin/adapters/{NAME}").json()["versions"]
    return next((each["phase"] for each in versions if each["version"] == change.old), None)


def age(store: Store) -> None:
    """Make what lies in the store an old left-over, if it is one."""
    for path in (store.root / "versions").iterdir():
        os.utime(path, (1, 1))


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step(
    tmp_path: Path, configuration: dict[str, dict[str, Any]], fake: FakeEngine, change: Change, step: str
) -> None:
    store, names = Store(tmp_path / "store"), {f"{NAME}@{change.old}", f"{NAME}@{change.new}"}
    with gateway_process(configuration, tmp_path, step, change) as (process, http):
        asking = Asking(http)
        go_through(http, change, tmp_path / "second")
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "gateway.log").read_text()
        asking.end()
    assert (asking.wrong, asking.versions - names) == ([], set())
    after = store.read().adapters[NAME]
    assert after.weights in ({change.old: 100}, {change.new: 100})
    for version in after.versions:
        assert digest(store.path(NAME, version)) == version
    age(store)
    with gateway_process(configuration, tmp_path) as (process, http):
        asking = Asking(http)
        # What the state named is brought to its end, what it did not name is as if it had never been.
        served = change.new if change.new in after.versions else change.old
        wait_until(lambda: served_by(http.post(CHAT, json=body(NAME))) == f"{NAME}@{served}")
        removed = change.old not in after.versions or after.versions[change.old].removing
        wait_until(lambda: {name for name in fake.adapters if not name.startswith("zero")} == {f"{NAME}@{served}"})
        wait_until(lambda: (old_phase(http, change) is None) == removed)
        assert store.read().adapters[NAME].weights == {served: 100}
        wait_until(lambda: whole(store) == {f"{NAME}@{version}" for version in store.read().adapters[NAME].versions})
        assert all((Path(root) / MANIFEST).is_file() for root in fake.adapters.values())
        process.kill()
        asking.end()
    assert (asking.wrong, asking.versions - names) == ([], set())


def whole(store: Store) -> set[str]:
    """What lies in the store beside the zero adapter."""
    return {path.name for path in (store.root / "versions").iterdir() if not path.name.startswith("zero@")}
