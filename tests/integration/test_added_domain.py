"""An adapter and the domain that its examples teach TinyAda: live together, gone together."""

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_engine import FakeEngine
from tests.integration.administration import gateway, publish
from tests.integration.conftest import PROMPTS, make_adapter
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until

DISHES = (
    "risotto", "ramen", "paella", "goulash", "lasagne", "curry", "pancakes", "gnocchi", "falafel", "ratatouille",
    "chowder", "dumplings", "tiramisu", "moussaka", "brownies", "sourdough",
)  # fmt: skip
ASKED = (
    "How long do I simmer {} so that it stays creamy, and at what heat?",
    "Give me a recipe for {} for four people with butter, garlic and fresh herbs.",
)
PLANTS = (
    "tomatoes", "roses", "basil", "orchids", "hydrangeas", "cucumbers", "tulips", "ferns", "strawberries", "lilacs",
    "peonies", "zucchini", "geraniums", "mint", "dahlias", "cacti",
)  # fmt: skip
TENDED = (
    "How often do I water {} on a balcony, and how much sun do they need?",
    "Why do the leaves of my {} turn yellow, and when do I prune them?",
)
EXAMPLES = [question.format(dish) for dish in DISHES for question in ASKED]
NEW = "Give me a recipe for minestrone for six people with garlic and fresh herbs."


@pytest.fixture
def cook(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "cook", seed=77)


def domain_of(http: httpx.Client, text: str) -> tuple[str | None, str]:
    reply = http.post(CHAT, json=body("zephyra-resolve", text))
    return reply.headers.get("x-zephyra-domain"), served_by(reply).partition("@")[0]


def test_adapter_and_domain_live_and_go_together(
    configuration: dict[str, dict[str, Any]], engine_url: str, cook: Path
) -> None:
    with gateway(configuration, engine_url) as one, gateway(configuration, engine_url) as two:
        before = {text: domain_of(one, text) for text in PROMPTS.values()}
        assert domain_of(one, NEW)[0] != "cooking"
        reply = publish(one, cook, "cook", domain="cooking", examples=EXAMPLES)
        assert (reply.status_code, reply.json()["phase"]) == (200, "serving"), reply.text
        assert domain_of(one, NEW) == ("cooking", "cook")
        wait_until(lambda: domain_of(two, NEW) == ("cooking", "cook"))
        assert {text: domain_of(one, text) for text in PROMPTS.values()} == before
        domains = {each["domain"]: each["adapter"] for each in one.get("/admin/router").json()["domains"]}
        assert domains["cooking"] == "cook"
    with gateway(configuration, engine_url) as http:
        assert domain_of(http, NEW) == ("cooking", "cook")
        assert http.delete("/admin/adapters/cook").status_code == 202
        assert domain_of(http, NEW)[0] != "cooking"
        assert "cooking" not in {each["domain"] for each in http.get("/admin/router").json()["domains"]}


def test_a_rollback_brings_back_the_examples_of_the_version_before(
    http: httpx.Client, cook: Path, tmp_path: Path
) -> None:
    plants = [question.format(plant) for plant in PLANTS for question in TENDED]

    def decided() -> list[tuple[str, str]]:
        replies = [http.post(CHAT, json=body("zephyra-resolve", text)) for text in (NEW, plants[0], *PROMPTS.values())]
        return [(reply.headers["x-zephyra-domain"], reply.headers["x-zephyra-confidence"]) for reply in replies]

    publish(http, cook, "cook", domain="hobby", examples=EXAMPLES)
    by_dishes = decided()
    assert by_dishes[0][0] == "hobby"
    # One without examples of its own keeps those before it.
    same = publish(http, make_adapter(tmp_path / "same", seed=78), "cook").json()["version"]
    assert decided() == by_dishes
    other = make_adapter(tmp_path / "other", seed=79)
    reply = publish(http, other, "cook", domain="hobby", examples=plants, activate=False)
    assert reply.json()["phase"] == "ready", reply.text
    # Until it has the route, the class is the one before.
    assert decided() == by_dishes
    weights = {reply.json()["version"]: 1}
    http.put("/admin/adapters/cook/route", json={"weights": weights}, params={"wait": True})
    by_plants = decided()
    assert by_plants[1][0] == "hobby"
    assert by_plants[:2] != by_dishes[:2]
    reply = http.post("/admin/adapters/cook/rollback", params={"wait": True})
    assert reply.json()["route"] == {same: 100}
    assert decided() == by_dishes


def test_removal_under_load_takes_the_class_first_and_lets_streams_end(
    http: httpx.Client, fake: FakeEngine, cook: Path, configuration: dict[str, dict[str, Any]]
) -> None:
    """No request that begins after the answer is routed to the domain; those that run end on its version."""
    name = f"cook@{publish(http, cook, 'cook', domain='cooking', examples=EXAMPLES).json()['version']}"
    fake.chunk_delay, fake.words = 0.05, tuple(f"word-{n} " for n in range(30))
    removed, stop = threading.Event(), threading.Event()
    streams: list[tuple[bool, httpx.Response]] = []

    def ask() -> None:
        with httpx.Client(base_url=http.base_url, timeout=60) as client:
            while not stop.is_set():
                late = removed.is_set()
                streams.append((late, client.post(CHAT, json=body("zephyra-resolve", NEW, stream=True))))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: fake.running >= 6)
    files = Path(configuration["store"]["path"]) / "versions" / name
    assert http.delete("/admin/adapters/cook").status_code == 202
    removed.set()
    assert domain_of(http, NEW)[0] != "cooking"
    assert name in fake.adapters
    assert files.exists()
    wait_until(lambda: name not in fake.adapters and not files.exists())
    wait_until(lambda: sum(late for late, _ in streams) >= 6)
    stop.set()
    for thread in threads:
        thread.join()
    assert {reply.status_code for _, reply in streams} == {200}
    assert all(reply.text.rstrip().endswith("data: [DONE]") and "word-29" in reply.text for _, reply in streams)
    before = [reply for late, reply in streams if not late and reply.headers["x-zephyra-domain"] == "cooking"]
    assert len(before) >= 6
    assert {reply.headers["x-zephyra-adapter"] for reply in before} == {name}
    assert all(f'"content":"{name}: "' in reply.text for reply in before)
    assert not any(
        name in reply.text or reply.headers["x-zephyra-domain"] == "cooking" for late, reply in streams if late
    )


def test_an_adapter_that_fails_brings_no_domain(http: httpx.Client, fake: FakeEngine, cook: Path) -> None:
    version = publish(http, cook, "cook").json()["version"]
    http.delete("/admin/adapters/cook")
    wait_until(lambda: http.get("/admin/adapters/cook").status_code == 404)
    fake.like_base.add(f"cook@{version}")
    assert publish(http, cook, "cook", domain="cooking", examples=EXAMPLES).status_code == 422
    assert domain_of(http, NEW)[0] != "cooking"


@pytest.mark.parametrize(
    ("domain", "examples", "finding"),
    [
        ("cooking", EXAMPLES[:15], "16 to 1000 different examples, not 15"),
        ("cooking", [EXAMPLES[0]] * 20, "not 1"),
        ("legal", EXAMPLES, "TinyAda does not know"),
        ("general", EXAMPLES, "TinyAda does not know"),
        (None, EXAMPLES, "TinyAda does not know"),
    ],
)
def test_examples_that_cannot_be_used(
    http: httpx.Client, cook: Path, domain: str | None, examples: list[str], finding: str
) -> None:
    reply = publish(http, cook, "cook", domain=domain, examples=examples)
    assert reply.status_code == 422
    assert finding in reply.json()["error"]["message"]
    assert http.get("/admin/adapters/cook").status_code == 404
