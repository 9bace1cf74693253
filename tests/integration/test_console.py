"""The console in a real browser, in front of the fake engine: the page's safety, its keys, its keyboard, each tab."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from server.access import Access
from server.app import create_app
from server.console.pages import files
from server.keys import Key, digest, write_keys
from server.settings import load
from tests.browser import NARROW, WIDE, Page, timeline_of
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import PROMPTS, make_adapter
from tests.waiting import wait_until

CHAT, ROUTE = "/v1/chat/completions", "/v1/route"
TABS = ("try", "live", "adapters", "router")
API_KEY, ADMIN_KEY = "zk_the-api-key-of-a-tenant", "the-admin-key"
MARKUP = ("<script>window.hacked = true</script>", "<img src=x onerror='window.hacked = true'>", "<b>bold</b>")


@pytest.fixture
def page(chromium: Chrome, gateway_url: str) -> Iterator[Page]:
    found = ready(chromium, gateway_url)
    yield found
    assert found.complaints() == []


def ready(chromium: Chrome, url: str) -> Page:
    page = Page(chromium, url)
    page.colours("light")
    page.size(WIDE)
    page.open()
    page.complaints()
    return page


def test_every_file_comes_under_the_policy_and_the_whole_is_small(http: httpx.Client) -> None:
    reply = http.get("/console")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert sum(len(file.content) for file in files().values()) < 200_000
    for name in files():
        reply = http.get(f"/console/{name}")
        assert reply.headers["content-security-policy"] == policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert http.get(f"/console/{name}", headers={"if-none-match": reply.headers["etag"]}).status_code == 304
    assert http.get("/console/..%2fpages.py").status_code == 404
    assert http.get("/console/pages.py").status_code == 404
    assert http.get("/").headers["location"] == "/console"


def test_no_file_asks_for_anything_elsewhere_or_makes_html() -> None:
    for name, file in files().items():
        text = file.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text), name
        assert not re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie", text), name
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son[a-z]+=|\sstyle=", text), name


def test_bars_and_time_line_agree_with_the_headers(page: Page, fake: FakeEngine) -> None:
    fake.chunk_delay = 0.02
    turn = page.ask(PROMPTS["finance"])
    (answer,) = page.answers(CHAT)
    headers, decision = answer["headers"], httpx.post(page.url + ROUTE, json=asked(PROMPTS["finance"])).json()
    shown = page.one(".turn .answer")
    assert shown.find_element("css selector", ".version").text == headers["x-zephyra-adapter"]
    assert shown.find_element("css selector", ".reason").text.startswith(headers["x-zephyra-reason"])
    bars = {bar.get_attribute("data-domain"): bar for bar in page.all(".turn .bars li")}
    assert set(bars) == set(PROMPTS)
    for domain, bar in bars.items():
        assert float(bar.get_attribute("data-score") or "") == pytest.approx(decision["scores"][domain])
        track, fill = (bar.find_element("css selector", f".{part}") for part in ("track", "fill"))
        wait_until(lambda fill=fill, track=track, domain=domain: close(fill, track, decision["scores"][domain]))  # type: ignore[misc]
    assert [domain for domain, bar in bars.items() if "best" in (bar.get_attribute("class") or "")] == [
        headers["x-zephyra-domain"]
    ]
    drawn, told = timeline_of(page, turn), server_timing(headers)
    for part in ("parse", "route", "gateway", "engine"):
        assert drawn[part]["ms"] == pytest.approx(told[part], abs=1e-3)
    assert drawn["whole"]["ms"] == pytest.approx(sum(drawn[part]["ms"] for part in ("gateway", "engine", "rest")))
    for part in ("engine", "rest"):
        share = drawn[part]["ms"] / drawn["whole"]["ms"]
        assert drawn[part]["pixels"] == pytest.approx(share * drawn["whole"]["pixels"], abs=1.5)
    # The second bar is the gateway's part enlarged.
    share = drawn["route"]["ms"] / drawn["gateway"]["ms"]
    assert drawn["route"]["pixels"] == pytest.approx(share * drawn["whole"]["pixels"], abs=1.5)


def test_typing_shows_where_it_would_go_and_asks_no_engine(page: Page, fake: FakeEngine) -> None:
    for domain in ("sql", "medical"):
        page.one("#prompt").clear()
        page.one("#prompt").send_keys(PROMPTS[domain])
        page.wait_text(".composer .where", f"{domain}@")
        assert page.text(".composer .bars .best .name") == domain
    assert len(page.answers(ROUTE)) < len(PROMPTS["sql"])
    assert fake.requests == []


def test_a_conversation_goes_on_and_starts_anew(page: Page, fake: FakeEngine) -> None:
    page.ask(PROMPTS["legal"])
    page.ask("And what if it was only spoken?")
    assert [message["role"] for message in fake.requests[-1]["messages"]] == ["user", "assistant", "user"]
    page.click("#fresh")
    assert page.all(".turn") == []
    page.ask(PROMPTS["math"])
    assert len(fake.requests[-1]["messages"]) == 1


def test_side_by_side(page: Page) -> None:
    page.click("#several")
    page.click(".others input[value=code]")
    page.ask(PROMPTS["legal"])
    answers = {answer.get_attribute("data-model"): answer for answer in page.all(".turn .answer")}
    assert list(answers) == ["zephyra-resolve", "zephyra", "code"]
    said = {model: answer.find_element("css selector", ".words").text for model, answer in answers.items()}
    assert [text.split("@")[0] for text in said.values()] == ["legal", "zero", "code"]
    served = [answer["headers"]["x-zephyra-adapter"] for answer in page.answers(CHAT)]
    assert sorted(served) == sorted(answer.get_attribute("data-adapter") or "" for answer in answers.values())
    assert len(page.all(".turn figure.time")) == 3


def test_model_output_stays_text(page: Page, fake: FakeEngine) -> None:
    fake.words = MARKUP
    page.ask(f"{MARKUP[0]} {PROMPTS['code']}")
    assert page.text(".turn .words").endswith("".join(MARKUP))
    assert MARKUP[0] in page.text(".turn .prompt")
    assert page.run("return document.querySelectorAll('main script, main img, main b:not([class])').length") == len(
        page.all("main figure b")
    )
    assert page.run("return window.hacked") is None


def test_the_browser_itself_refuses_html_and_the_outside(chromium: Chrome, gateway_url: str) -> None:
    page = ready(chromium, gateway_url)
    said = page.run(
        "try { document.body.innerHTML = arguments[0]; return 'made'; } catch (error) { return error.name; }", MARKUP[1]
    )
    assert said == "TypeError"
    outside = "fetch('https://elsewhere.example/').then(() => 'sent', (error) => 'kept')"
    assert page.run(f"return {outside}") == "kept"
    assert any("Content Security Policy" in line for line in page.complaints())


def test_an_engine_that_fails_is_said(page: Page, fake: FakeEngine) -> None:
    fake.break_after = 3
    page.ask(PROMPTS["sql"])
    assert "broke off" in page.text(".turn .answer.failed .hint") or "before its end" in page.text(
        ".turn .failed .hint"
    )
    fake.break_after, fake.failure = None, (400, json.dumps({"error": {"message": "too long for me"}}).encode())
    page.ask(PROMPTS["sql"])
    wait_until(lambda: "too long for me" in page.all(".turn .answer .hint")[-1].text)
    page.complaints()


def test_stop_ends_the_answer_at_the_engine(page: Page, fake: FakeEngine) -> None:
    fake.words, fake.chunk_delay = ("more ",) * 1000, 0.05
    page.one("#prompt").send_keys(PROMPTS["sql"], Keys.ENTER)
    page.wait_text(".turn .words", "more more")
    page.click("#stop")
    wait_until(lambda: fake.aborted == 1)
    assert page.text(".turn .answer .hint") == "Stopped."


def test_keys_open_what_they_are_for_and_a_reload_forgets_them(
    chromium: Chrome, configuration: dict[str, Any], engine_url: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    write_keys(keys, [Key(name="tenant", sha256=digest(API_KEY))])
    configuration["engine"]["urls"] = [engine_url]
    configuration |= {"admin": {"key": ADMIN_KEY}, "access": {"keys_file": str(keys)}}
    assert not Access.of(load(None, configuration).access).open
    with Served(create_app(load(None, configuration)), lifespan="on") as served:
        page = ready(chromium, served.url)
        page.wait_text("#try .notice", "the gateway wants a key")
        for name in TABS[1:]:
            page.tab(name)
            page.wait_text(f"#{name} .notice", "/admin takes the key")
        enter_keys(page, API_KEY, "not-the-admin-key")
        page.wait_text("#router .notice", "/admin takes the key")
        enter_keys(page, "", ADMIN_KEY)
        page.wait_text("#router", "Confusion")
        page.tab("live")
        page.wait_text("#feed", "connected")
        page.tab("try")
        page.ask(PROMPTS["legal"])
        assert page.text(".turn .words").startswith("legal@")
        kept = "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        everywhere = page.run(kept) + page.run("return document.documentElement.outerHTML")
        fields = page.run("return [...document.querySelectorAll('input')].map((field) => field.value).join()")
        assert API_KEY not in everywhere + fields
        assert ADMIN_KEY not in everywhere + fields
        page.open()
        page.wait_text("#try .notice", "the gateway wants a key")
        page.complaints()


def enter_keys(page: Page, api: str, admin: str) -> None:
    page.click("#open-keys")
    page.wait("#api-key").send_keys(api)
    page.wait("#admin-key").send_keys(admin, Keys.ENTER)
    wait_until(lambda: not page.all("dialog[open]"))


def test_everything_by_keyboard(page: Page) -> None:
    page.run("document.getElementById('tab-try').focus()")
    for pressed, name in (
        (Keys.ARROW_RIGHT, "live"),
        (Keys.END, "router"),
        (Keys.ARROW_RIGHT, "try"),
        (Keys.ARROW_LEFT, "router"),
        (Keys.ARROW_LEFT, "adapters"),
    ):
        page.keys(pressed)
        assert page.run("return document.activeElement.id") == f"tab-{name}"
        assert page.one(f"#{name}").is_displayed()
        assert page.run("return location.hash") == f"#{name}"
    page.wait("#remove-legal")
    for _ in range(60):
        page.keys(Keys.TAB)
        if page.run("return document.activeElement.id") == "remove-legal":
            break
    page.keys(Keys.ENTER)
    page.wait("dialog.action")
    # What deletes is never the button that Enter alone would press.
    assert page.run("return document.activeElement.id") == "action-cancel"
    page.keys(Keys.ESCAPE)
    wait_until(lambda: not page.all("dialog.action"))
    assert page.run("return document.activeElement.id") == "remove-legal"
    assert httpx.get(f"{page.url}/admin/adapters/legal").json()["removing"] is False


def test_live_shows_answers_as_they_come(page: Page, http: httpx.Client) -> None:
    page.tab("live")
    page.wait_text("#feed", "connected")
    headers = http.post(CHAT, json=asked(PROMPTS["support"])).headers
    for _ in range(3):
        http.post(CHAT, json=asked(PROMPTS["support"]), headers={"x-zephyra-bypass": "1"})
    wait_until(lambda: len(page.all("#live tbody tr")) == 4)
    first = page.all("#live tbody tr")[-1].text
    assert headers["x-zephyra-adapter"] in first
    assert "resolved" in first
    assert PROMPTS["support"][:20] not in page.text("#live")
    page.wait_text("#live .figures", "1 of 1")
    page.wait_text("#live .bars", "100 % · 1")
    page.wait_text("#live .histogram", "at the median of 3")
    assert len(page.all("#live .held li")) == 8
    page.click("#pause")
    http.post(CHAT, json=asked(PROMPTS["math"]))
    page.wait_text("#pause", "1 held back")
    assert len(page.all("#live tbody tr")) == 4


def test_a_swap_a_canary_and_a_rollback_by_mouse(page: Page, tmp_path: Path, http: httpx.Client) -> None:
    old = http.get("/admin/adapters/legal").json()["versions"][0]["version"]
    second = make_adapter(tmp_path / "second", seed=99)
    page.tab("adapters")
    page.wait("#add-name").send_keys("legal")
    page.one("#add-path").send_keys(str(second))
    page.one("#add-examples").send_keys(PROMPTS["legal"])
    page.click("#add-preview")
    page.wait_text(".found", "legal")
    page.click("#add-activate")
    said = page.confirm("#add-publish")
    new = next(v["version"] for v in http.get("/admin/adapters/legal").json()["versions"] if v["version"] != old)
    for part in (
        "published",
        "validating",
        "loading",
        "verifying",
        "ready",
        "Done.",
        '"what":"publish"',
        f"legal@{new}: An",
    ):
        assert part in said
    page.click(f"#canary-legal-{new}")
    page.run(
        "const slider = arguments[0]; slider.value = 30; slider.dispatchEvent(new Event('input'));",
        page.wait("#canary-share"),
    )
    page.wait_text("dialog output", "30 % to")
    page.click("#action-confirm")
    page.wait_text("dialog.action", f'"to":{{"{old}":70,"{new}":30}}')
    page.click("#action-cancel")
    page.wait_text(f"[data-version='{new}']", "30 %")
    said = page.confirm(f"#promote-legal-{new}")
    assert '"what":"route"' in said
    assert f'"to":{{"{new}":100}}' in said
    page.tab("try")
    page.ask(PROMPTS["legal"])
    assert page.all(".answer .version")[-1].text == f"legal@{new}"
    page.tab("adapters")
    # The route before the last change was the shared one.
    said = page.confirm("#rollback-legal")
    assert f'"to":{{"{old}":70,"{new}":30}}' in said
    page.confirm(f"#promote-legal-{old}")
    page.tab("try")
    page.ask(PROMPTS["legal"])
    assert page.all(".answer .version")[-1].text == f"legal@{old}"
    page.tab("adapters")
    wait_until(lambda: phase(http, new) == "retired")
    said = page.confirm(f"#drop-legal-{new}")
    assert '"what":"remove version"' in said
    wait_until(lambda: not page.all(f"[data-version='{new}']"))
    page.confirm("#remove-sql")
    wait_until(lambda: not page.all("[data-adapter=sql]"))
    assert http.get("/admin/adapters/sql").status_code == 404
    # The browser writes down the 404 by which the page saw that it was gone.
    assert all("404" in line for line in page.complaints())


def phase(http: httpx.Client, version: str) -> str:
    versions = http.get("/admin/adapters/legal").json()["versions"]
    return str(next(one["phase"] for one in versions if one["version"] == version))


def test_a_broken_adapter_shows_its_reason(page: Page, tmp_path: Path, fake: FakeEngine) -> None:
    broken = make_adapter(tmp_path / "broken", seed=5)
    (broken / "adapter_model.safetensors").write_bytes(b"nothing of the kind")
    page.tab("adapters")
    page.wait("#add-name").send_keys("tax")
    page.one("#add-path").send_keys(str(broken))
    said = page.confirm("#add-publish")
    assert "safetensors" in said
    assert "refused:" in said
    good = make_adapter(tmp_path / "good", seed=6)
    page.one("#add-path").clear()
    page.one("#add-path").send_keys(str(good))
    fake.like_base = AnyOf("tax@")
    said = page.confirm("#add-publish")
    assert "answers as the base" in said
    page.wait_text("[data-adapter=tax] [data-phase=failed]", "answers as the base")
    page.complaints()


class AnyOf(set[str]):
    """Holds every name that begins so."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self.beginning = beginning

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith(self.beginning)


def test_router_shows_the_card_and_tallies_a_file(page: Page, http: httpx.Client) -> None:
    evaluation = http.get("/admin/router/card").json()["evaluation"]
    page.tab("router")
    page.wait_text("#router", "Confusion")
    shown = page.text("#router .figures-table")
    for figure in evaluation["figures"]:
        assert re.search(rf"{re.escape(figure['name'])}\s+{figure['value']:.4f}", shown)
    counts = [int(cell.get_attribute("data-count") or "") for cell in page.all("#router .cell")]
    assert sum(counts) == evaluation["rows"]
    assert page.text("#disagreement").startswith("No shadow")
    lines = [json.dumps({"text": text, "domain": domain}) for domain, text in PROMPTS.items()]
    lines += [
        PROMPTS["sql"],
        json.dumps({"messages": [{"role": "user", "content": PROMPTS["math"]}], "domain": "code"}),
    ]
    page.run("document.getElementById('prompts').value = arguments[0]", "\n".join(lines))
    page.click("#tally")
    page.wait_text("#router .outcome", f"right domain for 89 % of {len(PROMPTS) + 1} labelled")
    tally = {bar.get_attribute("data-domain"): bar.get_attribute("data-score") for bar in page.all("#router .bars li")}
    assert tally == {domain: "2" if domain in ("sql", "math") else "1" for domain in PROMPTS}
    page.run("document.getElementById('prompts').value = '{broken'")
    page.click("#tally")
    page.wait_text("#router .tally .problem", "Line 1 begins like JSON but is none.")


def test_a_shadow_shows_how_often_it_disagrees(page: Page, http: httpx.Client, tmp_path: Path) -> None:
    view = {"digest": "0123456789ab", "compared": 40, "disagreed": 5, "dropped": 2}
    served = http.get("/admin/router").json()
    page.run(
        "const plain = window.fetch; window.fetch = async (...given) => String(given[0]).endsWith('/admin/router')"
        "? new Response(arguments[0]) : plain(...given);".replace(
            "arguments[0]", json.dumps(json.dumps(served | {"shadow": view}))
        )
    )
    page.tab("router")
    page.wait_text("#disagreement", "13 %")
    page.wait_text("#router", "2 conversations it had no time for")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, http: httpx.Client, tmp_path: Path, scheme: str) -> None:
    page.colours(scheme)
    make_adapter(tmp_path / "second", seed=99)
    http.post("/admin/adapters/legal/versions?wait=true", json={"path": str(tmp_path / "second"), "activate": False})
    page.one("#prompt").send_keys(PROMPTS["legal"])
    page.wait_text(".composer .where", "legal@")
    assert page.findings() == []
    page.click("#several")
    page.keys(Keys.TAB)
    page.one("#prompt").send_keys(Keys.ENTER)
    wait_until(lambda: bool(page.all(".turn[aria-busy=false]")))
    assert page.findings() == []
    for name, there in (("live", ".histogram"), ("adapters", "#add-name"), ("router", ".confusion")):
        page.tab(name)
        page.wait(f"#{name} {there}")
        assert page.findings() == []
    page.tab("adapters")
    page.click("[id^=canary-legal]")
    assert page.findings() == []
    page.click("#action-confirm")
    page.wait("dialog .audit pre")
    assert page.findings() == []
    page.click("#action-cancel")
    page.click("#open-keys")
    page.wait("#api-key")
    assert page.findings() == []


def test_a_narrow_screen_scrolls_one_way_only(page: Page) -> None:
    page.size(NARROW)
    page.ask(PROMPTS["legal"])
    for name in TABS:
        page.tab(name)
        wait_until(lambda name=name: len(page.text(f"#{name}")) > 100)  # type: ignore[misc]
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")


def asked(text: str) -> dict[str, Any]:
    return {"model": "zephyra-resolve", "messages": [{"role": "user", "content": text}]}


def close(fill: Any, track: Any, share: float) -> bool:
    return bool(abs(fill.size["width"] - share * track.size["width"]) <= 1.5)


def server_timing(headers: dict[str, str]) -> dict[str, float]:
    parts = (part.split(";dur=") for part in headers["server-timing"].split(", "))
    return {name: float(value) for name, value in parts}
