"""A gateway, two fake engines and a real Prometheus over them: the shipped configuration on a faster clock."""

import contextlib
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from server.app import create_app
from server.keys import Key, digest, write_keys
from server.settings import load
from tests.deploy.programs import free_port, program
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import sections
from tests.waiting import wait_until

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
CHAT = "/v1/chat/completions"
KEY = "zk_watched-and-nothing-else"
# The windows of rules and panels, and what they are here: seconds for minutes.
WINDOWS = {"5m": "6s", "15m": "8s", "1d": "60s", "$__rate_interval": "8s", "$__range": "60s"}
WORKERS = 4


def faster(query: str) -> str:
    """A query with its windows shortened and its variables set to everything."""
    for window, short in WINDOWS.items():
        query = query.replace(f"[{window}]", f"[{short}]")
    return re.sub(r"\$(instance|adapter|engine)\b", ".*", query)


@dataclass
class Watched:
    """What runs, and the way to drive and to ask it."""

    directory: Path
    engines: tuple[FakeEngine, FakeEngine]
    gateway: httpx.Client
    prometheus: httpx.Client

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The result's samples. Fails where Prometheus cannot run the query."""
        reply = self.prometheus.get("/api/v1/query", params={"query": promql})
        assert reply.status_code == 200, f"{promql}: {reply.text}"
        return list(reply.json()["data"]["result"])

    def firing(self, alert: str, **labels: str) -> bool:
        alerts = self.prometheus.get("/api/v1/alerts").json()["data"]["alerts"]
        return any(
            found["state"] == "firing"
            and found["labels"]["alertname"] == alert
            and labels.items() <= found["labels"].items()
            for found in alerts
        )

    def wait_firing(self, alert: str, **labels: str) -> None:
        wait_until(lambda: self.firing(alert, **labels), 60, 0.2)

    @contextlib.contextmanager
    def driven(self, *bodies: dict[str, Any], headers: dict[str, str] | None = None) -> Iterator[None]:
        """Send these bodies in turn, again and again, until the context ends."""
        stop = threading.Event()

        def send(start: int) -> None:
            with httpx.Client(base_url=self.gateway.base_url, headers=self.gateway.headers, timeout=30) as client:
                number = start
                while not stop.wait(0.02):
                    client.post(CHAT, json=bodies[number % len(bodies)], headers=headers)
                    number += 1

        threads = [threading.Thread(target=send, args=(start,)) for start in range(WORKERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@contextlib.contextmanager
def watched(directory: Path) -> Iterator[Watched]:
    """All of it, ready, and scraped at least once."""
    prometheus = program("prometheus")
    engines = FakeEngine(record=False), FakeEngine(record=False)
    write_keys(directory / "keys.json", [Key(name="test", sha256=digest(KEY), may_bypass=True, may_observe=True)])
    (directory / "observe-key").write_text(KEY)
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(Served(engine)).url for engine in engines]
        configuration = sections(directory)
        configuration["engine"]["urls"] = urls
        configuration["access"] = {"keys_file": str(directory / "keys.json")}
        gateway = stack.enter_context(Served(create_app(load(None, configuration)), lifespan="on")).url
        url = f"http://127.0.0.1:{free_port()}"
        _configure(directory, [gateway, "http://127.0.0.1:9"], urls)
        command = [prometheus, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb"]
        command += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn"]
        with (directory / "prometheus.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        headers = {"authorization": f"Bearer {KEY}"}
        client = stack.enter_context(httpx.Client(base_url=gateway, headers=headers, timeout=30))
        asked = stack.enter_context(httpx.Client(base_url=url, timeout=30))
        found = Watched(directory, engines, client, asked)
        wait_until(lambda: client.get("/ready").status_code == 200, 60)
        wait_until(lambda: _scraped(found), 60)
        yield found


def _scraped(found: Watched) -> bool:
    try:
        return len(found.query("up == 1")) == 3
    except httpx.TransportError:
        return False


def _configure(directory: Path, gateways: list[str], engines: list[str]) -> None:
    """The shipped configuration and rules, with these targets and a clock of seconds."""
    shipped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    shipped["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in shipped["scrape_configs"]:
        del job["dns_sd_configs"]
        targets = gateways if job["job_name"] == "zephyra" else engines
        job["static_configs"] = [{"targets": [target.removeprefix("http://") for target in targets]}]
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(directory / "observe-key")
    (directory / "prometheus.yml").write_text(yaml.safe_dump(shipped))
    (directory / "rules").mkdir()
    for file in (PROMETHEUS / "rules").glob("*.yml"):
        rules = yaml.safe_load(file.read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            rule["expr"] = faster(rule["expr"])
            if "for" in rule:
                rule["for"] = "1s"
        (directory / "rules" / file.name).write_text(yaml.safe_dump(rules))
