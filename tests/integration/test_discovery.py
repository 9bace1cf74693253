"""Engines behind a name: found, filled and used as they come, left alone as they go."""

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from server import discovery
from server.app import create_app
from server.settings import load
from tests.fake_engine import FakeEngine, Served
from tests.integration.test_chat import CHAT, body
from tests.waiting import wait_until

ANSWERS = 12


class Name:
    """A resolver whose addresses the test sets; None is a name that does not resolve."""

    def __init__(self) -> None:
        self.addresses: frozenset[str] | None = frozenset()
        self.asked = 0

    async def __call__(self, host: str, port: int) -> frozenset[str]:
        assert host == "engines.test"
        self.asked += 1
        if self.addresses is None:
            raise OSError("no such name")
        return frozenset(f"http://{address}:{port}" for address in self.addresses)

    def looked_up(self) -> None:
        """Wait for two whole look-ups from now on."""
        before = self.asked
        wait_until(lambda: self.asked >= before + 2)


def test_engines_come_and_go_with_their_name(
    configuration: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, first, second = Name(), FakeEngine(), FakeEngine()
    monkeypatch.setattr(discovery, "addresses", name)
    with Served(first) as one, Served(second, address=("127.0.0.2", one.port)):
        configuration["engine"] |= {"urls": [f"dns+http://engines.test:{one.port}"], "resolve_interval": 0.05}
        with Served(create_app(load(None, configuration)), lifespan="on") as served:
            http = httpx.Client(base_url=served.url, timeout=30)

            def ask() -> int:
                return http.post(CHAT, json=body()).status_code

            def counted(metric: str) -> int:
                return sum(line.startswith(metric) for line in http.get("/metrics").text.splitlines())

            assert "no engine is ready" in http.get("/ready").text
            name.addresses = frozenset({"127.0.0.1"})
            wait_until(lambda: http.get("/ready").status_code == 200)
            assert ask() == 200

            # A second one gets all adapters before any request, then its share.
            name.addresses = frozenset({"127.0.0.1", "127.0.0.2"})
            wait_until(lambda: counted("zephyra_engine_ready{") == 2 and set(second.adapters) == set(first.adapters))
            wait_until(lambda: http.get("/ready").status_code == 200)
            first.delay = second.delay = 0.2
            threads = [threading.Thread(target=ask) for _ in range(ANSWERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert first.requests
            assert second.requests

            # A name that cannot be resolved takes nobody away.
            name.addresses = None
            name.looked_up()
            assert counted("zephyra_engine_ready{") == 2
            assert ask() == 200

            # One that leaves gets no other request.
            name.addresses = frozenset({"127.0.0.2"})
            first.requests.clear()
            second.delay = 0.0
            name.looked_up()
            assert counted("zephyra_engine_ready{") == 1
            assert [ask() for _ in range(4)] == [200] * 4
            assert not first.requests
            http.close()


def test_running_answers_outlive_their_engine_s_name(
    configuration: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, fake = Name(), FakeEngine(delay=0.5)
    monkeypatch.setattr(discovery, "addresses", name)
    with Served(fake) as one:
        name.addresses = frozenset({"127.0.0.1"})
        configuration["engine"] |= {"urls": [f"dns+http://engines.test:{one.port}"], "resolve_interval": 0.05}
        with Served(create_app(load(None, configuration)), lifespan="on") as served:
            wait_until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)
            statuses: list[int] = []
            thread = threading.Thread(
                target=lambda: statuses.append(httpx.post(served.url + CHAT, json=body(), timeout=30).status_code)
            )
            thread.start()
            wait_until(lambda: fake.running == 1)
            name.addresses = frozenset({"127.0.0.2"})
            name.looked_up()
            url = f'"{one.url}"'
            assert url in httpx.get(f"{served.url}/metrics").text
            thread.join()
            assert statuses == [200]
            # Its figures leave when it is done.
            wait_until(lambda: f"zephyra_engine_up{{engine={url}}}" not in httpx.get(f"{served.url}/metrics").text)


async def test_a_real_name_is_resolved() -> None:
    found = await discovery.look_up("dns+http://localhost:80")
    assert found & {"http://127.0.0.1:80", "http://[::1]:80"}
    with pytest.raises(discovery.Unknown):
        await discovery.look_up("dns+http://nowhere.invalid:80")


async def test_a_file_names_engines(tmp_path: Path) -> None:
    file = tmp_path / "engines"
    with pytest.raises(discovery.Unknown):
        await discovery.look_up(f"file:{file}")
    file.write_text("# two\nhttp://one:8000\n\nunix:/run/two.sock  # beside us\n")
    assert await discovery.look_up(f"file:{file}") == {"http://one:8000", "unix:/run/two.sock"}
    file.write_text("one:8000\n")
    with pytest.raises(discovery.Unknown, match="'one:8000' must begin with"):
        await discovery.look_up(f"file:{file}")
