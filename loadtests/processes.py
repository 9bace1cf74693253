"""The processes a benchmark needs, each on a core of its own choosing: fake engine, gateway, nginx, LiteLLM."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

READY = b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
UNCHECKED = "dangerously_permit_weak_or_unset_master_key"  # LiteLLM's word for our loopback without keys
ROOT = Path(__file__).resolve().parent.parent
NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  client_max_body_size 16m;
  client_body_buffer_size 1m;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    keepalive_requests 1000000;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A server on loopback; `process` is the one that does the work."""

    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """CPU time used so far, the kernel's included."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def resident(self) -> int:
        """Resident memory, in bytes."""
        return int(self.process.memory_info().rss)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def fake_engine(core: int, *options: str) -> Iterator[Server]:
    """The tests' fake engine."""
    port = free_port()
    with _running([sys.executable, "-m", "tests.fake_engine", "--port", str(port), *options], core, port) as process:
        yield Server(port, process)


@contextlib.contextmanager
def gateway(core: int, engine: Server, *options: str) -> Iterator[Server]:
    """`zephyra serve` with the shipped adapters, ready."""
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
    command += ["--engine", f"http://127.0.0.1:{engine.port}", *options]
    with _running(command, core, port, READY % b"/ready") as process:
        yield Server(port, process)


@contextlib.contextmanager
def nginx(core: int, engine: Server, directory: Path) -> Iterator[Server | None]:
    """nginx as a plain reverse proxy with kept connections; None where it is not installed."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        yield None
        return
    port = free_port()
    directory.mkdir(exist_ok=True)
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(directory=directory, engine=engine.port, port=port))
    with _running([program, "-p", str(directory), "-c", str(configuration)], core, port) as master:
        yield Server(port, master.children()[0])


@contextlib.contextmanager
def litellm(core: int, engine: Server, directory: Path, program: str | None) -> Iterator[Server | None]:
    """LiteLLM's proxy, one worker, its model `base` being the engine's; None without its program."""
    if program is None:
        yield None
        return
    port = free_port()
    directory.mkdir(exist_ok=True)
    parameters = {"model": "openai/base", "api_base": f"http://127.0.0.1:{engine.port}/v1", "api_key": "none"}
    models = [{"model_name": "base", "litellm_params": parameters}]
    (directory / "litellm.yaml").write_text(json.dumps({"model_list": models, "general_settings": {UNCHECKED: True}}))
    command = [program, "--config", str(directory / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    with _running([*command, "--telemetry", "False"], core, port, READY % b"/health/liveliness") as process:
        yield Server(port, process)


@contextlib.contextmanager
def _running(command: list[str], core: int, port: int, probe: bytes = b"") -> Iterator[psutil.Process]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        ["taskset", "-c", str(core), *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    ) as child:
        try:
            _wait(child, port, probe)
            yield psutil.Process(child.pid)
        finally:
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait(child: "subprocess.Popen[bytes]", port: int, probe: bytes) -> None:
    """Until the port answers, and the probe with 200."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise SystemExit(f"{child.args!r} ended with status {child.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as connection:
            if not probe:
                return
            connection.sendall(probe)
            if b" 200 " in connection.recv(4096):
                return
        time.sleep(0.1)
    raise SystemExit(f"{child.args!r} did not become ready within 120 s")
