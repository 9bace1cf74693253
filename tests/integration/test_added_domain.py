"""An adapter and the domain that its examples teach TinyAda: live together, gone together."""

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
