"""deploy/README.md is followed as far as a machine without Docker, GPU and cluster can: its own text is what runs.

The gateway is a process with the environment that docker-compose makes of the page's .env, before a fake engine; what
the page does in its container is done there. Each command is run, or stands with its reason in `UNTRIED` and by name
in the page's paragraph of that title.
"""

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from tests.deploy.pages import DEPLOY, LIST, ROOT, commands, inline, paragraphs
from tests.deploy.programs import PATH, free_port, program
from tests.fake_engine import FakeEngine, Served
from tests.waiting import wait_until

PAGE = DEPLOY / "README.md"
# What is run here, by the test that runs it.
RUN = {
    "prepare": r"cd deploy|cp \.env\.example|for name in",
    "without a GPU": r"sed -i s/\^COMPOSE_PROFILES",
    "compose": r"docker-compose config",
    "ask": r"\. \./\.env|curl ",
    "adapter": r"docker compose (cp|exec) ",
    "store": r"docker compose run .*--entrypoint tar ",
    "command": r"zephyra ",
    "promtool": r"promtool ",
    "kustomize": r"kubectl apply -k",
    "make": r"([A-Z_]+=\S+ )?make ",
}
# What is not, and why.
UNTRIED = {
    "docker compose up": "needs a Docker engine",
    "docker compose build": "needs a Docker engine and the images it begins from",
    "docker compose run --rm fetch": "needs the Hugging Face Hub",
    "docker compose ps": "needs a Docker engine",
    "docker compose logs": "needs a Docker engine",
    "docker run": "needs a GPU",
    "git pull": "would change the checkout",
    "kubectl create": "needs a cluster",
    "kubectl apply": "needs a cluster; what it would apply is read",
}
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


def simple(statement: str) -> list[str]:
    """The commands that `&&` joins."""
    return [part.strip() for part in statement.split("&&")]


def of(kind: str) -> list[str]:
    """The page's commands of one kind."""
    found = [command for command in commands(PAGE) if re.match(RUN[kind], command)]
    assert found, f"the page has no more commands of the kind {kind}"
    return found


def test_each_command_is_run_or_listed() -> None:
    for command in (part for statement in commands(PAGE) for part in simple(statement)):
        ways = [kind for kind, pattern in RUN.items() if re.match(pattern, command)]
        reasons = [reason for name, reason in UNTRIED.items() if command.startswith(name)]
        assert ways or reasons, f"neither run nor listed: {command}"
        assert len(ways) <= 1, command


def test_the_page_names_what_is_untried() -> None:
    untried = next(text for text in paragraphs(PAGE) if text.startswith(LIST))
    assert UNTRIED.keys() <= set(inline(untried))
    given = [part for statement in commands(PAGE) for part in simple(statement)]
    assert all(any(command.startswith(name) for command in given) for name in UNTRIED)


@dataclass(frozen=True)
class Host:
    """A directory as the page's reader has it, and programs in place of those that only his host has."""

    home: Path

    @property
    def deploy(self) -> Path:
        return self.home / "deploy"

    def sh(self, script: str, **environment: str) -> str:
        """What a shell script prints; fails where one of its commands does."""
        path = os.pathsep.join([str(self.home / "bin"), PATH])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.deploy,
            env={"HOME": str(self.home), "PATH": path, "LANG": "C.UTF-8", **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def container(self) -> dict[str, str]:
        """The gateway's environment in its container."""
        services = yaml.safe_load(self.sh("\n".join(of("compose"))))["services"]
        # An empty one counts as absent.
        return {name: str(value) for name, value in services["gateway"]["environment"].items() if value != ""}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """After the page's first block, in a copy of what is there."""
    program("docker-compose")
    found = Host(tmp_path_factory.mktemp("host"))
    shutil.copytree(DEPLOY, found.deploy)
    for name, text in {"docker": DOCKER, "zephyra": f'#!/bin/sh\nexec "{sys.executable}" -m server "$@"\n'}.items():
        file = found.home / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    found.sh("cd ..\n" + "\n".join(of("prepare")))
    return found


def test_the_first_block_makes_keys_and_a_configuration(host: Host) -> None:
    written = dict(line.split("=", 1) for line in (host.deploy / ".env").read_text().splitlines() if "=" in line[:40])
    keys = [written[name] for name in ("ZEPHYRA_KEYS", "ZEPHYRA_OBSERVE_KEY", "ZEPHYRA_ADMIN_KEY", "GRAFANA_PASSWORD")]
    assert len(set(keys)) == 4
    assert all(re.fullmatch("[0-9a-f]{48}", key) for key in keys)
    container = host.container()
    assert container["ZEPHYRA_API_KEYS"] == f"{keys[0]},{keys[1]}"
    assert container["ZEPHYRA_ADMIN_KEY"] == keys[2]
    assert container["ZEPHYRA__ENGINE__DEVICE"] == "cuda"
    # What a shell reads of the file is what docker-compose reads.
    assert host.sh('. ./.env && printf %s "$ZEPHYRA_KEYS,$ZEPHYRA_OBSERVE_KEY"') == container["ZEPHYRA_API_KEYS"]
    host.sh("\n".join(of("without a GPU")))
    assert host.container()["ZEPHYRA__ENGINE__DEVICE"] == "cpu"


@dataclass(frozen=True)
class Container:
    """A gateway with the container's environment, on a port of its own."""

    host: Host
    environment: dict[str, str]
    url: str
    http: httpx.Client

    def sh(self, commands: list[str]) -> str:
        script = "\n".join(commands).replace("http://127.0.0.1:8000", self.url)
        return self.host.sh(script, **self.environment)

    def adapter(self, model: str) -> str:
        """The version that answers."""
        body = {"model": model, "messages": [{"role": "user", "content": "May I sublet my flat?"}]}
        reply = self.http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        return reply.headers["x-zephyra-adapter"]


@contextlib.contextmanager
def started(host: Host, environment: dict[str, str], store: Path) -> Iterator[Container]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **environment,
        # The image's own, and what is elsewhere here.
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ZEPHYRA__STORE__PATH": str(store),
        "ZEPHYRA__GATEWAY__PORT": str(port),
        "ZEPHYRA_URL": url,
    }
    key = environment["ZEPHYRA_API_KEYS"].partition(",")[0]
    log = (host.home / "gateway.log").open("a")
    process = subprocess.Popen([sys.executable, "-m", "server", "serve"], env=environment, stdout=log, stderr=log)
    try:
        with log, httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as http:
            wait_until(lambda: process.poll() is not None or _ready(http), 120)
            assert process.poll() is None, (host.home / "gateway.log").read_text()
            yield Container(host, environment, url, http)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def environment(host: Host) -> Iterator[dict[str, str]]:
    """The container's, with the name of the engine replaced by the fake one's address."""
    found = host.container()
    with Served(FakeEngine()) as engine:
        urls = found["ZEPHYRA__ENGINE__URLS"].replace("http://engine:8000", engine.url)
        assert engine.url in urls
        yield {**found, "ZEPHYRA__ENGINE__URLS": urls}


@pytest.fixture(scope="module")
def container(host: Host, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with started(host, environment, tmp_path_factory.mktemp("store")) as found:
        yield found


def test_the_first_answer(container: Container) -> None:
    printed = container.sh(of("ask"))
    assert '{"status":"ready"}' in printed
    assert "HTTP/1.1 200 OK" in printed
    assert "x-zephyra-adapter: math@" in printed


def _adapter(directory: Path, factor: float) -> None:
    """A LoRA that fits the base: a shipped one, each matrix times `factor`."""
    shipped = ROOT / "adapters" / "bundle" / "legal"
    directory.mkdir(exist_ok=True)
    shutil.copy(shipped / "adapter_config.json", directory)
    weights = load_file(shipped / "adapter_model.safetensors")
    changed = {name: (weight * factor).astype(np.float32) for name, weight in weights.items()}
    save_file(changed, directory / "adapter_model.safetensors")


def test_an_adapter_of_one_s_own_is_backed_up_and_restored(
    host: Host, container: Container, environment: dict[str, str], tmp_path: Path
) -> None:
    shipped = container.adapter("legal")
    _adapter(host.deploy / "my-law", 1.5)
    printed = container.sh(of("adapter"))
    mine = container.adapter("legal")
    assert mine != shipped
    assert f"{mine}  serving" in printed
    # A domain of examples is part of the store too.
    texts = "\n".join(f'{{"text": "How long does risotto number {number} simmer?"}}' for number in range(16))
    (host.deploy / "cooking.jsonl").write_text(texts)
    container.sh(["zephyra adapters publish cook my-law --domain cooking --examples cooking.jsonl"])

    backup, restore = of("store")
    container.sh([backup])
    (tmp_path / "store").mkdir()
    host.sh(restore, ZEPHYRA__STORE__PATH=str(tmp_path / "store"))
    with started(host, environment, tmp_path / "store") as other:
        assert other.adapter("legal") == mine
        assert other.adapter("cook") == container.adapter("cook")
        decision = other.http.post(
            "/v1/route", json={"messages": [{"role": "user", "content": "Does risotto simmer?"}]}
        )
        assert decision.json()["domain"] == "cooking"
    assert '"cook"' in (tmp_path / "store" / "audit.jsonl").read_text()

    printed = container.sh([command.replace("NAME", "legal") for command in of("command")])
    assert f"legal is served by {shipped.partition('@')[2]} 100" in printed
    assert mine.partition("@")[2] in printed
    assert container.adapter("legal") == shipped


def test_the_rules_tests_run_as_written() -> None:
    for command in of("promtool"):
        tool, *arguments = command.split()
        subprocess.run([program(tool), *arguments], cwd=DEPLOY / "prometheus", check=True, capture_output=True)


def test_make_knows_what_is_asked_of_it() -> None:
    for command in of("make"):
        # What it would do, without doing it: the environment is there already.
        subprocess.run(f"{command} --dry-run", shell=True, cwd=ROOT, check=True, capture_output=True)


def test_everything_is_applied_to_the_cluster() -> None:
    for command in of("kustomize"):
        directory = DEPLOY / command.split()[-1]
        resources = yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]
        assert sorted(resources) == sorted(
            file.name for file in directory.glob("*.yaml") if file.name != "kustomization.yaml"
        )
