"""Who follows a page: a directory as he has it, programs in place of those that only his host has, a gateway."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.deploy.pages import ROOT
from tests.deploy.programs import PATH, free_port
from tests.waiting import wait_until

# The gateway's address on the pages.
ADDRESS = "http://127.0.0.1:8000"
# In place of `docker`, for what the page does in the gateway's container: its environment is this one's.
DOCKER = """#!/bin/sh
set -eu
[ "$1" = compose ]
verb=$2
shift 2
entrypoint=
while [ "${1#-}" != "$1" ]; do
    [ "$1" != --entrypoint ] || { entrypoint=$2; shift; }
    shift
done
case $verb in
    cp) set -- cp -R "$@" ;;
    exec) [ "$1" = gateway ]; shift ;;
    run) [ "$1" = gateway ]; shift; set -- "$entrypoint" "$@" ;;
    *) exit 125 ;;
esac
for argument; do
    set -- "$@" "$(printf %s "$argument" | sed "s|^gateway:||; s|^/store|$ZEPHYRA__STORE__PATH|")"
    shift
done
exec "$@"
"""
ZEPHYRA = f'''#!/bin/sh
exec "{sys.executable}" -m server "$@"
'''


def copy_adapter(name: str, directory: Path, factor: float) -> None:
    """A LoRA that fits the base: a shipped one, each matrix times `factor`."""
    shipped = ROOT / "adapters" / "bundle" / name
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(shipped / "adapter_config.json", directory)
    weights = load_file(shipped / "adapter_model.safetensors")
    changed = {name: (weight * factor).astype(np.float32) for name, weight in weights.items()}
    save_file(changed, directory / "adapter_model.safetensors")


@dataclass(frozen=True)
class Reader:
    """Works in `place`; programs of his are in `programs`."""

    place: Path
    programs: Path

    @classmethod
    def at(cls, place: Path, programs: Path) -> "Reader":
        """With `zephyra`, and with a `docker` that does in the gateway's container what is asked of it."""
        programs.mkdir()
        for name, text in {"docker": DOCKER, "zephyra": ZEPHYRA}.items():
            file = programs / name
            file.write_text(text)
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return cls(place, programs)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        path = os.pathsep.join([str(self.programs), PATH])
        own = {"HOME": str(self.programs), "LANG": "C.UTF-8", "PATH": path, "PYTHONPATH": str(ROOT)}
        return {**own, "PYTHONDONTWRITEBYTECODE": "1", **more}

    def sh(self, script: str, **environment: str) -> str:
        """What a shell script prints; fails where one of its commands does."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.place,
            env=self.environment(environment),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def serving(self, command: str, environment: Mapping[str, str], key: str = "") -> Iterator["Gateway"]:
        """`zephyra serve`, on a port of its own, until the context ends."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        where = {**environment, "ZEPHYRA__GATEWAY__PORT": str(port), "ZEPHYRA_URL": url}
        log = self.programs / f"{port}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.place, env=self.environment(where), stdout=file, stderr=file
            )
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
                wait_until(lambda: process.poll() is not None or _ready(http), 120)
                assert process.poll() is None, log.read_text()
                yield Gateway(self, where, url, http)
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Gateway:
    """One that runs, and its environment: the container's, where the page has one."""

    reader: Reader
    environment: dict[str, str]
    url: str
    http: httpx.Client

    def sh(self, commands: list[str]) -> str:
        """What commands of a page print, this gateway's address in place of the page's."""
        return self.reader.sh("\n".join(commands).replace(ADDRESS, self.url), **self.environment)

    def adapter(self, model: str) -> str:
        """The version that answers."""
        body = {"model": model, "messages": [{"role": "user", "content": "May I sublet my flat?"}]}
        reply = self.http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        return reply.headers["x-zephyra-adapter"]


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False
