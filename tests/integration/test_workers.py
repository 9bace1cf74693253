"""Several workers behind one address: they share the work, their metrics are one, an ended one is replaced."""

import contextlib
import itertools
import re
import signal
import threading
from typing import Any

import httpx
import psutil

from tests.fake_engine import FakeEngine
from tests.integration.test_chat import CHAT, body
from tests.integration.test_command import ready, serving
from tests.integration.test_feed import listening
from tests.waiting import wait_until

COUNT = 'zephyra_requests_total{adapter="legal",model="legal",reason="explicit",status="200"}'


def value(url: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def workers(process: Any) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    alive = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    found = []
    for child in alive:
        # One may end between two looks.
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("spawn_main" in part for part in child.cmdline()):
                found.append(child)
    return found


def test_workers_answer_as_one(engine_url: str, fake: FakeEngine) -> None:
    with serving(engine_url, "--workers", "2") as (url, process):
        wait_until(lambda: ready(url))
        wait_until(lambda: len(workers(process)) == 2 and all(ready(url) for _ in range(20)))
        # Each on a connection of its own, so that both workers get some.
        for sent in range(1, 41):
            assert httpx.post(url + CHAT, json=body("legal")).status_code == 200
            if sent % 10 == 0:
                # The other worker's counts are at most half a second old.
                wait_until(lambda sent=sent: value(url, COUNT) == sent)  # type: ignore[misc]
        second = workers(process)[1]
        second.kill()
        wait_until(lambda: not second.is_running() or second.status() == psutil.STATUS_ZOMBIE)
        wait_until(lambda: len(workers(process)) == 2 and second not in workers(process))
        wait_until(lambda: all(ready(url) for _ in range(20)))
        # What a worker counted before it was killed stays counted, all that a scrape has shown.
        assert value(url, COUNT) == 40
        assert value(url, "zephyra_requests_in_flight") == 0

        # Long enough for all four to run at once, however slowly they begin.
        fake.chunk_delay = 1.0
        received: list[bytes] = []

        def read() -> None:
            with httpx.stream("POST", url + CHAT, json=body("legal", stream=True)) as reply:
                received.extend(reply.iter_bytes())

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        wait_until(lambda: fake.running == 4)
        process.send_signal(signal.SIGTERM)
        for reader in readers:
            reader.join(60)
        assert b"".join(received).count(b"data: [DONE]") == 4
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0, printed
        assert printed.count("zephyra: stopped") == 1
        assert "Traceback" not in printed


def test_one_feed_tells_the_answers_of_all(engine_url: str) -> None:
    told: set[str] = set()
    counter = itertools.count()

    def hear(url: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as client, listening(client) as events:
            told.update(value["request_id"] for name, value in events if name == "answer")

    def all_of_twenty(url: str) -> bool:
        """Each on a connection of its own: that one worker gets them all will not happen."""
        asked = {f"request-{next(counter)}" for _ in range(20)}
        for name in asked:
            assert httpx.post(url + CHAT, json=body("legal"), headers={"x-request-id": name}).status_code == 200
        with contextlib.suppress(AssertionError):
            wait_until(lambda: asked <= told, 3)
        return asked <= told

    with serving(engine_url, "--workers", "2") as (url, process):
        wait_until(lambda: ready(url))
        wait_until(lambda: len(workers(process)) == 2 and all(ready(url) for _ in range(20)))
        listener = threading.Thread(target=hear, args=(url,))
        listener.start()
        # The workers find each other in a moment.
        wait_until(lambda: all_of_twenty(url))
        process.send_signal(signal.SIGTERM)
        listener.join(60)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0, printed
        assert "Traceback" not in printed


def test_workers_end_with_the_process_that_watches_them(engine_url: str) -> None:
    with serving(engine_url, "--workers", "2") as (url, process):
        wait_until(lambda: ready(url))
        wait_until(lambda: len(workers(process)) == 2)
        family = workers(process)
        process.kill()
        wait_until(lambda: not any(child.is_running() for child in family))
