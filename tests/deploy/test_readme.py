"""deploy/README.md is followed as far as a machine without Docker, GPU and cluster can: its own text is what runs.

The gateway is a process with the environment that docker-compose makes of the page's .env, before a fake engine; what
the page does in its container is done there. Each command is run, or stands with its reason in `UNTRIED` and by name
in the page's paragraph of that title.
"""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.pages import DEPLOY, LIST, ROOT, commands, inline, of_kind, paragraphs
from tests.deploy.programs import program
from tests.deploy.reader import Gateway, Reader, copy_adapter
from tests.fake_engine import FakeEngine, Served

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


def simple(statement: str) -> list[str]:
    """The commands that `&&` joins."""
    return [part.strip() for part in statement.split("&&")]


def of(kind: str) -> list[str]:
    """The page's commands of one kind."""
    return of_kind(PAGE, RUN[kind])


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


def test_services_are_those_of_compose() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    named = [
        word
        for command in (part for statement in commands(PAGE) for part in simple(statement))
        if command.startswith("docker compose ") and any(command.startswith(name) for name in UNTRIED)
        for word in command.split()[3:]
        if not word.startswith("-")
    ]
    assert {"gateway", "engine", "fetch"} <= set(named) <= services.keys()


def container_environment(reader: Reader) -> dict[str, str]:
    """The gateway's in its container; an empty variable counts as absent."""
    services = yaml.safe_load(reader.sh("\n".join(of("compose"))))["services"]
    return {name: str(value) for name, value in services["gateway"]["environment"].items() if value != ""}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """After the page's first block, in a copy of what is there."""
    program("docker-compose")
    home = tmp_path_factory.mktemp("host")
    shutil.copytree(DEPLOY, home / "deploy")
    found = Reader.at(home / "deploy", home / "programs")
    found.sh("cd ..\n" + "\n".join(of("prepare")))
    return found


@pytest.fixture(scope="module")
def containers(reader: Reader) -> list[dict[str, str]]:
    """The gateway's environment in its container, with a GPU and then without one."""
    with_gpu = container_environment(reader)
    reader.sh("\n".join(of("without a GPU")))
    return [with_gpu, container_environment(reader)]


def test_the_first_block_makes_keys_and_a_configuration(reader: Reader, containers: list[dict[str, str]]) -> None:
    written = dict(re.findall(r"^([A-Z_]+)=(.*)$", (reader.place / ".env").read_text(), re.M))
    keys = [written[name] for name in ("ZEPHYRA_KEYS", "ZEPHYRA_OBSERVE_KEY", "ZEPHYRA_ADMIN_KEY", "GRAFANA_PASSWORD")]
    assert len(set(keys)) == 4
    assert all(re.fullmatch("[0-9a-f]{48}", key) for key in keys)
    for container, device in zip(containers, ("cuda", "cpu"), strict=True):
        assert container["ZEPHYRA_API_KEYS"] == f"{keys[0]},{keys[1]}"
        assert container["ZEPHYRA_ADMIN_KEY"] == keys[2]
        assert container["ZEPHYRA__ENGINE__DEVICE"] == device
    # What a shell reads of the file is what docker-compose reads.
    assert reader.sh('. ./.env && printf %s "$ZEPHYRA_KEYS,$ZEPHYRA_OBSERVE_KEY"') == f"{keys[0]},{keys[1]}"


@pytest.fixture(scope="module")
def environment(containers: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The container's, with the name of the engine replaced by the fake one's address."""
    found = containers[1]
    with Served(FakeEngine()) as engine:
        urls = found["ZEPHYRA__ENGINE__URLS"].replace("http://engine:8000", engine.url)
        assert engine.url in urls
        yield {**found, "ZEPHYRA__ENGINE__URLS": urls}


@contextlib.contextmanager
def started(reader: Reader, environment: dict[str, str], store: Path) -> Iterator[Gateway]:
    key = environment["ZEPHYRA_API_KEYS"].partition(",")[0]
    with reader.serving("zephyra serve", {**environment, "ZEPHYRA__STORE__PATH": str(store)}, key) as found:
        yield found


@pytest.fixture(scope="module")
def container(
    reader: Reader, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with started(reader, environment, tmp_path_factory.mktemp("store")) as found:
        yield found


def test_the_first_answer(container: Gateway) -> None:
    printed = container.sh(of("ask"))
    assert '{"status":"ready"}' in printed
    assert "HTTP/1.1 200 OK" in printed
    assert "x-zephyra-adapter: math@" in printed


def test_an_adapter_of_one_s_own_is_backed_up_and_restored(
    reader: Reader, container: Gateway, environment: dict[str, str], tmp_path: Path
) -> None:
    shipped = container.adapter("legal")
    copy_adapter("legal", reader.place / "my-law", 1.5)
    printed = container.sh(of("adapter"))
    mine = container.adapter("legal")
    assert mine != shipped
    assert f"{mine}  serving" in printed
    # A domain of examples is part of the store too.
    examples = [f"How long does risotto number {number} simmer?" for number in range(16)]
    body = {"path": str(reader.place / "my-law"), "domain": "cooking", "examples": examples}
    key = {"authorization": f"Bearer {environment['ZEPHYRA_ADMIN_KEY']}"}
    reply = container.http.post("/admin/adapters/cook/versions", params={"wait": True}, json=body, headers=key)
    assert reply.status_code == 200, reply.text

    backup, restore = of("store")
    container.sh([backup])
    (tmp_path / "store").mkdir()
    reader.sh(restore, ZEPHYRA__STORE__PATH=str(tmp_path / "store"))
    with started(reader, environment, tmp_path / "store") as other:
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
