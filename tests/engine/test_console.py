"""The console in a real browser before the whole system: each domain answered, a swap and a rollback by mouse.

With ZEPHYRA_SCREENSHOTS=DIRECTORY it also takes the pictures of each tab, light and dark.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from selenium.webdriver import Chrome

from tests.browser import SCREENSHOTS, WIDE, Page, timeline_of
from tests.engine.conftest import ROOT, System
from tests.integration.conftest import PROMPTS
from tests.waiting import wait_until

CHAT = "/v1/chat/completions"
BUNDLE = ROOT / "adapters" / "bundle"
TOKENS = "24"


@pytest.fixture
def page(chromium: Chrome, system: System) -> Page:
    system.wait_ready()
    found = Page(chromium, system.url)
    found.colours("light")
    found.size(WIDE)
    found.open()
    limit = found.wait("#limit")
    limit.clear()
    limit.send_keys(TOKENS)
    return found


@pytest.fixture
def http(system: System) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=system.url, timeout=300) as client:
        yield client


def test_a_prompt_of_each_domain_is_answered_and_shown_as_the_headers_say(page: Page) -> None:
    for domain, text in PROMPTS.items():
        turn = page.ask(text)
        headers = page.answers(CHAT)[-1]["headers"]
        shown = turn.find_element("css selector", ".answer")
        assert headers["x-zephyra-domain"] == shown.get_attribute("data-domain") == domain
        assert shown.find_element("css selector", ".version").text == headers["x-zephyra-adapter"]
        assert shown.find_element("css selector", ".words").text
        assert turn.find_element("css selector", ".bars .best .name").text == domain
        told = dict(part.split(";dur=") for part in headers["server-timing"].split(", "))
        drawn = timeline_of(page, turn)
        for part in ("parse", "route", "gateway", "engine"):
            assert drawn[part]["ms"] == pytest.approx(float(told[part]), abs=1e-3)
        share = drawn["engine"]["ms"] / drawn["whole"]["ms"]
        assert drawn["engine"]["pixels"] == pytest.approx(share * drawn["whole"]["pixels"], abs=1.5)
        page.click("#fresh")


def test_side_by_side_the_experts_say_different_things(page: Page) -> None:
    page.click("#several")
    page.click(".others input[value=code]")
    turn = page.ask(PROMPTS["support"])
    said = [words.text for words in turn.find_elements("css selector", ".words")]
    assert len(said) == len(set(said)) == 3


def test_a_swap_and_a_rollback_by_mouse_are_seen_in_the_next_answer(page: Page, http: httpx.Client) -> None:
    (old,) = http.get("/admin/adapters/legal").json()["route"]
    page.tab("adapters")
    page.wait("#add-name").send_keys("legal")
    page.one("#add-path").send_keys(str(BUNDLE / "finance"))
    said = page.confirm("#add-publish")
    assert "Done." in said
    (new,) = http.get("/admin/adapters/legal").json()["route"]
    assert new != old
    page.tab("try")
    page.ask(PROMPTS["legal"])
    assert page.all(".answer .version")[-1].text == f"legal@{new}"
    swapped = page.all(".answer .words")[-1].text
    page.tab("adapters")
    assert "Done." in page.confirm("#rollback-legal")
    page.tab("try")
    page.click("#fresh")
    page.ask(PROMPTS["legal"])
    assert page.all(".answer .version")[-1].text == f"legal@{old}"
    assert page.all(".answer .words")[-1].text != swapped
    http.delete(f"/admin/adapters/legal/versions/{new}")
    wait_until(lambda: len(http.get("/admin/adapters/legal").json()["versions"]) == 1, seconds=60)


def test_a_broken_adapter_shows_the_reason_that_the_engine_gave(page: Page, http: httpx.Client, tmp_path: Path) -> None:
    page.tab("adapters")
    page.wait("#add-name").send_keys("faint")
    page.one("#add-path").send_keys(str(without_effect(tmp_path / "faint")))
    assert "answers as the base" in page.confirm("#add-publish")
    page.wait_text("[data-adapter=faint] [data-phase=failed]", "answers as the base")
    page.confirm("#remove-faint")
    wait_until(lambda: http.get("/admin/adapters/faint").status_code == 404, seconds=60)


def without_effect(directory: Path) -> Path:
    """An adapter so weak that only the proof on the engine notices."""
    directory.mkdir()
    tensors = load_file(BUNDLE / "legal" / "adapter_model.safetensors")
    weak = {key: value * np.float32(1e-30) if "lora_B" in key else value for key, value in tensors.items()}
    save_file(weak, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_bytes((BUNDLE / "legal" / "adapter_config.json").read_bytes())
    return directory


@pytest.mark.skipif(SCREENSHOTS is None, reason="ZEPHYRA_SCREENSHOTS is not set: no screenshots")
def test_screenshots_of_each_tab(page: Page, http: httpx.Client) -> None:
    stop = "Is a verbal contract binding if there were no witnesses?"
    for index, text in enumerate((*PROMPTS.values(), *PROMPTS.values(), stop)):
        bypass = {"x-zephyra-bypass": "1"} if index % 3 == 2 else {}
        http.post(CHAT, json={"model": "zephyra-resolve", "messages": says(text), "max_tokens": 8}, headers=bypass)
    publication = {"path": str(BUNDLE / "finance"), "activate": False}
    new = http.post("/admin/adapters/legal/versions", json=publication, params={"wait": True}).json()["version"]
    (old,) = http.get("/admin/adapters/legal").json()["route"]
    http.put("/admin/adapters/legal/route", json={"weights": {old: 90, new: 10}}, params={"wait": True})
    try:
        for scheme in ("light", "dark"):
            page.colours(scheme)
            page.open()
            page.wait("#limit").clear()
            page.one("#limit").send_keys("64")
            page.ask(PROMPTS["medical"])
            page.click("#several")
            page.click(".others input[value=code]")
            page.ask(PROMPTS["finance"])
            page.one("#prompt").send_keys("Can my landlord keep the deposit because of")
            page.wait_text(".composer .where", "legal@")
            page.screenshot(f"try-{scheme}")
            page.tab("live")
            page.wait("#live .histogram")
            for text in PROMPTS.values():
                http.post(CHAT, json={"model": "zephyra-resolve", "messages": says(text), "max_tokens": 8})
            wait_until(lambda: len(page.all("#live tbody tr")) == len(PROMPTS))
            page.screenshot(f"live-{scheme}")
            page.tab("adapters")
            page.wait("#adapters .shares")
            page.screenshot(f"adapters-{scheme}")
            page.tab("router")
            page.wait("#router .confusion")
            lines = [json.dumps({"text": text, "domain": domain}) for domain, text in PROMPTS.items()]
            page.run(
                "document.getElementById('prompts').value = arguments[0]",
                "\n".join([*lines, *list(PROMPTS.values())[:3]]),
            )
            page.click("#tally")
            page.wait_text("#router .outcome", "11 of 11")
            page.screenshot(f"router-{scheme}", 2300)
    finally:
        http.post("/admin/adapters/legal/rollback", params={"wait": True})
        http.delete(f"/admin/adapters/legal/versions/{new}")
        wait_until(lambda: len(http.get("/admin/adapters/legal").json()["versions"]) == 1, seconds=60)


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
