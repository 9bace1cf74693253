"""Two gateways, two engines and one store behind a real nginx: each part is restarted under load, no request fails."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.deploy.programs import free_port, program
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import sections
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy" / "nginx" / "zephyra.conf"
CHAT = "/v1/chat/completions"
CLIENTS = 4


@dataclass
class Load:
    """Clients that ask without pause, whole answers and streams in turn; what failed, and how many did not."""

    url: str
    failures: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 12) -> None:
        """Wait until so many more answers have come."""
        goal = self.answers.total() + count
        wait_until(lambda: self.answers.total() >= goal or bool(self.failures), 60)
        assert not self.failures

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self._stop.wait(0.01):
                number += 1
                stream = number % 2 == 0
                body = {"model": "legal", "stream": stream, "messages": [{"role": "user", "content": f"case {number}"}]}
                try:
                    reply = client.post(CHAT, json=body)
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                    continue
                whole = reply.text.rstrip().endswith("data: [DONE]" if stream else "}")
                if reply.status_code == 200 and whole and '"error"' not in reply.text:
                    self.answers["stream" if stream else "whole"] += 1
                else:
                    self.failures.append(f"{reply.status_code}: {reply.text[:300]}")


@dataclass
class Node:
    """A gateway: `zephyra serve` as its own process."""

    config: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        command = [sys.executable, "-m", "server", "serve", "--config", str(self.config), "--port", str(self.port)]
        with (self.config.parent / f"gateway-{self.port}.log").open("a") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def start(self) -> None:
        self.launch()
        wait_until(self.ready, 120)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None
        try:
            return httpx.get(f"{self.url}/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """As systemd, Docker and Kubernetes do."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def knows(self, engine: str) -> bool:
        return f'zephyra_engine_up{{engine="{engine}"}}' in httpx.get(f"{self.url}/metrics", timeout=10).text

    def serves(self, engine: str) -> bool:
        return f'zephyra_engine_ready{{engine="{engine}"}} 1.0' in httpx.get(f"{self.url}/metrics", timeout=10).text


@contextlib.contextmanager
def balanced(directory: Path, nodes: list[Node]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """nginx with the shipped configuration in front of these gateways."""
    port = free_port()
    text = CONFIGURATION.read_text().replace("listen 8080", f"listen 127.0.0.1:{port}")
    for number, node in enumerate(nodes, 1):
        text = text.replace(f"gateway-{number}:8000", f"127.0.0.1:{node.port}")
    main = [
        f"pid {directory}/nginx.pid;",
        "daemon off;",
        "worker_processes 2;",
        "events {}",
        "http {",
        "access_log off;",
    ]
    if os.getuid() == 0:
        main.insert(0, "user root;")
    main += [f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    (directory / "nginx.conf").write_text("\n".join([*main, text, "}"]))
    command = [
        program("nginx"),
        "-p",
        str(directory),
        "-c",
        str(directory / "nginx.conf"),
        "-e",
        f"{directory}/nginx.log",
    ]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: process.poll() is None and _answers(f"http://127.0.0.1:{port}/health"), 60)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def configure(directory: Path) -> Path:
    found = sections(directory)
    legal = found["adapters"]["legal"]["path"]
    text = f"""
        [base]
        model = "{found["base"]["model"]}"
        [engine]
        device = "cpu"
        poll_interval = 0.2
        resolve_interval = 0.2
        urls = ["file:{directory}/engines"]
        [store]
        path = "{directory}/store"
        [adapters.legal]
        path = "{legal}"
        domain = "legal"
    """
    path = directory / "zephyra.toml"
    path.write_text(text)
    return path


def test_every_part_is_restarted_and_no_request_fails(tmp_path: Path) -> None:
    program("nginx")
    config, listed = configure(tmp_path), tmp_path / "engines"
    nodes = [Node(config, free_port()) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        engines = [Served(FakeEngine(chunk_delay=0.02, record=False)) for _ in range(2)]
        for engine in engines:
            engine.__enter__()

        def stop_engines() -> None:
            # Those that run when the test ends.
            for engine in engines:
                engine.__exit__()

        stack.callback(stop_engines)
        listed.write_text("\n".join(engine.url for engine in engines))
        for node in nodes:
            stack.callback(node.kill)
            node.launch()
        for node in nodes:
            wait_until(node.ready, 120)
        url, nginx = stack.enter_context(balanced(tmp_path, nodes))
        with Load(url) as load:
            load.more()
            for node in nodes:
                node.stop()
                load.more()
                node.start()
                load.more()
            for place, engine in enumerate(engines):
                listed.write_text("\n".join(other.url for other in engines if other is not engine))
                # Its series leave when it has finished what it had.
                wait_until(lambda gone=engine.url: not any(node.knows(gone) for node in nodes), 60)  # type: ignore[misc]
                engine.__exit__()
                load.more()
                engines[place] = Served(FakeEngine(chunk_delay=0.02, record=False), address=("127.0.0.1", engine.port))
                engines[place].__enter__()
                listed.write_text("\n".join(engine.url for engine in engines))
                wait_until(lambda back=engine.url: all(node.serves(back) for node in nodes), 60)  # type: ignore[misc]
                load.more()
            nginx.send_signal(signal.SIGHUP)
            load.more()
        assert load.failures == []
        assert load.answers["stream"] > 20
        assert load.answers["whole"] > 20
