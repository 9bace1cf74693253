"""A gateway in a process of its own that dies by SIGKILL at a named step of a change.

The steps are calls that the change goes through anyway: the child wraps one and kills itself before or after it. A
fork server that has everything imported starts children, so that each takes as long as a gateway and no interpreter.
"""

import inspect
import json
import multiprocessing
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx

import adapters.store
import server.app
import server.rollout
from adapters.store import Store
from adapters.version import Version
from server.cli import run
from server.engine import Engine
from server.gateway import Gateway
from server.settings import load
from server.table import RouteTable
from tests.waiting import wait_until

NAME = "legal"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Change:
    """Version `old` of `NAME` is replaced by `new`."""

    old: str
    new: str

    def loads_new(self, engine: Engine, version: Version) -> bool:
        return version.digest == self.new

    def verifies_new(self, engine: Engine, name: str, base: str) -> bool:
        return name == f"{NAME}@{self.new}"

    def unloads_old(self, engine: Engine, name: str) -> bool:
        return name == f"{NAME}@{self.old}"

    def deletes_old(self, store: Store, name: str, digest: str) -> bool:
        return digest == self.old

    def deletes_files(self, path: Path, **more: Any) -> bool:
        return Path(path).name.startswith(".trash-")

    def flips(self, gateway: Gateway, table: RouteTable) -> bool:
        return NAME in table.routes and table.routes[NAME].primary.digest == self.new

    def writes_manifest(self, path: Path, content: bytes, durable: bool = True) -> bool:
        return path.name == adapters.store.MANIFEST and self.new in content.decode()

    def renames(self, path: Path) -> bool:
        return (path / f"{NAME}@{self.new}").is_dir()

    def names_new(self, path: Path, content: bytes, durable: bool = True) -> bool:
        return self.new in written(path, content)["versions"]

    def routes_new(self, path: Path, content: bytes, durable: bool = True) -> bool:
        weights: dict[str, int] = written(path, content)["weights"]
        return weights == {self.new: 100}

    def retires_old(self, path: Path, content: bytes, durable: bool = True) -> bool:
        old = written(path, content)["versions"].get(self.old)
        return old is not None and old["history"][-1]["phase"] == "retired"

    def drops_old(self, path: Path, content: bytes, durable: bool = True) -> bool:
        return self.new in written(path, content)["versions"] and self.old not in written(path, content)["versions"]


def written(path: Path, content: bytes) -> dict[str, Any]:
    """The adapter's part of a state that is being written."""
    state = json.loads(content) if path.name == "state.json" else {}
    return {"versions": {}, "weights": {}, **state.get("adapters", {}).get(NAME, {})}


@dataclass(frozen=True)
class Step:
    """The first call of `owner.name` for which `when` holds; the process dies before or after it."""

    owner: Any
    name: str
    when: Callable[..., bool]
    before: bool
    after: bool


def _steps() -> Iterator[tuple[str, Step]]:
    store, rollout = adapters.store, server.rollout
    yield "before the manifest", Step(store, "replace_file", Change.writes_manifest, True, False)
    yield "after the manifest", Step(store, "replace_file", Change.writes_manifest, False, True)
    yield "after the rename", Step(store, "_sync_directory", Change.renames, False, True)
    for what, owner, name, when in (
        ("the state names it", store, "replace_file", Change.names_new),
        ("the load", Engine, "load", Change.loads_new),
        ("the proof", rollout, "verify", Change.verifies_new),
        ("the state routes to it", store, "replace_file", Change.routes_new),
        ("the flip", Gateway, "flip", Change.flips),
        ("the unload", Engine, "unload", Change.unloads_old),
        ("the old one is retired", store, "replace_file", Change.retires_old),
        ("the state drops the old one", store, "replace_file", Change.drops_old),
    ):
        yield f"before {what}", Step(owner, name, when, True, False)
        yield f"after {what}", Step(owner, name, when, False, True)
    yield "while files are deleted", Step(shutil, "rmtree", Change.deletes_files, True, False)
    yield "after files are deleted", Step(Store, "delete", Change.deletes_old, False, True)


STEPS = dict(_steps())


def arm(step: Step, change: Change) -> None:
    """From now on this process dies at the step."""
    function = getattr(step.owner, step.name)

    def reached(moment: bool, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if moment and step.when(change, *arguments, **options):
            os.kill(os.getpid(), signal.SIGKILL)

    async def wrapped_coroutine(*arguments: Any, **options: Any) -> Any:
        reached(step.before, arguments, options)
        result = await function(*arguments, **options)
        reached(step.after, arguments, options)
        return result

    def wrapped(*arguments: Any, **options: Any) -> Any:
        reached(step.before, arguments, options)
        result = function(*arguments, **options)
        reached(step.after, arguments, options)
        return result

    setattr(step.owner, step.name, wrapped_coroutine if inspect.iscoroutinefunction(function) else wrapped)


def serve(configuration: dict[str, dict[str, Any]], log: Path, step: str | None, change: Change | None) -> None:
    """What the child does: `zephyra serve`, and its death at the step."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # What a dead gateway reported last would otherwise hold things up for half a minute.
    adapters.store.STALE_SECONDS = 1.0
    if step is not None and change is not None:
        arm(STEPS[step], change)
    run(load(None, configuration))


@contextmanager
def gateway_process(
    configuration: dict[str, dict[str, Any]], directory: Path, step: str | None = None, change: Change | None = None
) -> Iterator[tuple[ForkServerProcess, httpx.Client]]:
    """A gateway that is ready; killed in the end where it has not killed itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    own = {**configuration, "gateway": {"port": port}}
    process = CONTEXT.Process(target=serve, args=(own, directory / "gateway.log", step, change), daemon=True)
    process.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            wait_until(lambda: not process.is_alive() or _ready(http))
            assert process.is_alive(), (directory / "gateway.log").read_text()
            yield process, http
    finally:
        process.kill()
        process.join()


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False
