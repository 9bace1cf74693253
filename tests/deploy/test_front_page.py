"""README.md is followed from its own text, before two fake engines; what takes training or a real one is listed."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.deploy.pages import ROOT, blocks, commands, of_kind
from tests.deploy.reader import ADDRESS, Gateway, Reader, copy_adapter
from tests.fake_engine import FakeEngine, Served

PAGE = ROOT / "README.md"
RUN = {
    "serve": r"zephyra serve --engine ",
    "ask": r"curl ",
    "route": r"zephyra route ",
    "adapters": r"zephyra adapters (publish|rollback) ",
    "swap": r"zephyra router swap ",
    "make": r"make ",
}
# Not run here, and why; test_pages.py knows their options.
ELSEWHERE = {
    "zephyra serve --config": "begins the real engine; the file shown is read by test_pages.py",
    "zephyra router train": "minutes",
    "zephyra router evaluate": "wants rows that no repository may hold",
    "zephyra adapters train": "minutes",
    "zephyra adapters evaluate": "minutes",
    "python loadtests/overhead.py": "a measurement",
    "python loadtests/engine.py": "a measurement, against vLLM",
    "python loadtests/soak.py": "a measurement of fifteen minutes",
    "python -m router.training.bench": "a measurement",
}


def of(kind: str) -> list[str]:
    """The page's commands of one kind."""
    return of_kind(PAGE, RUN[kind])


def test_each_command_is_run_or_listed() -> None:
    for command in commands(PAGE):
        ways = [kind for kind, pattern in RUN.items() if re.match(pattern, command)]
        ways += [name for name in ELSEWHERE if command.startswith(name)]
        assert len(ways) == 1, f"neither run nor listed: {command}"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    (home / "work").mkdir()
    reader = Reader.at(home / "work", home / "programs")
    (command,) = of("serve")
    with Served(FakeEngine()) as one, Served(FakeEngine()) as other:
        assert "127.0.0.1:9000" in command
        assert "127.0.0.1:9001" in command
        command = command.replace("http://127.0.0.1:9000", one.url).replace("http://127.0.0.1:9001", other.url)
        with reader.serving(command, {}) as found:
            yield found


def test_the_first_question_finds_its_expert(gateway: Gateway) -> None:
    printed = gateway.sh(of("ask"))
    assert "HTTP/1.1 200 OK" in printed
    assert "x-zephyra-domain: support" in printed
    assert "x-zephyra-adapter: support@" in printed
    # The headers that the page shows.
    shown = next(block for block in blocks(PAGE, "") if "HTTP/1.1" in block)
    for name in re.findall(r"^([a-z-]+): ", shown, re.M):
        assert f"\n{name}: " in printed


def test_the_official_client_streams(gateway: Gateway) -> None:
    (code,) = blocks(PAGE, "python")
    assert ADDRESS in code
    code = code.replace(ADDRESS, gateway.url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


def test_adapters_and_routers_of_one_s_own(gateway: Gateway) -> None:
    place = gateway.reader.place
    shutil.copytree(ROOT / "router" / "weights", place / "my-tinyada")
    for name, factor in {"ledger": 1.5, "tax": 2.0}.items():
        copy_adapter("finance", place / "mine" / name, factor)
    texts = [f"Which form do I file for my tax return of the year {2000 + number}?" for number in range(16)]
    (place / "prompts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))

    shipped = gateway.adapter("finance")
    publish, rollback, another = of("adapters")
    gateway.sh([publish])
    assert gateway.adapter("finance") != shipped
    printed = gateway.sh([rollback, another, *of("swap"), *of("route")])
    assert gateway.adapter("finance") == shipped
    assert gateway.adapter("tax").startswith("tax@")
    assert re.search(r"^tax@\w+  serving$", printed, re.M)
    assert re.search(r"^TinyAda \w+ serves", printed, re.M)


def test_make_knows_what_is_asked_of_it() -> None:
    for command in of("make"):
        words = command.partition("#")[0].split()
        subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)
