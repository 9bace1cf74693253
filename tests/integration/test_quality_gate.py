"""A version that brings an exam along must pass enough of it on the engine, or it never serves."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.quality import BadExam, Item, exam_of
from tests.fake_engine import FakeEngine
from tests.integration.administration import adapter, gateway, phase, publish
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until

# The fake engine answers "NAME: An answer of a few words." to everything.
RIGHT, WRONG = "answer  of a FEW", "a long answer"


def with_exam(directory: Path, *expected: str) -> Path:
    """Give the adapter an exam with these expectations."""
    lines = [json.dumps({"prompt": f"Question {n}?", "expected": text}) for n, text in enumerate(expected)]
    (directory / "questions.jsonl").write_text("\n".join(lines) + "\n")
    (directory / "manifest.json").write_text(json.dumps({"domain": "legal", "exam": "questions.jsonl"}))
    return directory


def test_an_exam_that_is_passed(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    reply = publish(http, with_exam(second, RIGHT, WRONG, RIGHT, RIGHT))
    assert (reply.status_code, reply.json()["phase"]) == (200, "serving")
    version = reply.json()["version"]
    history = next(v["history"] for v in adapter(http)["versions"] if v["version"] == version)
    reason = next(entry["reason"] for entry in history if entry["phase"] == "ready")
    assert reason.endswith("passed 3 of 4 questions of its exam (0.75)")
    asked = [each for each in fake.requests if each["model"] == f"legal@{version}"]
    assert [each["messages"][0]["content"] for each in asked] == [f"Question {n}?" for n in range(4)]


def test_an_exam_that_is_failed_and_mended(http: httpx.Client, second: Path) -> None:
    before = served_by(http.post(CHAT, json=body("legal")))
    reply = publish(http, with_exam(second, WRONG, WRONG, RIGHT))
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "adapter_refused")
    finding = "it passed 1 of 3 questions of its exam (0.33), fewer than store.exam_share = 0.5"
    assert reply.json()["error"]["message"] == finding
    failed = next(v for v in adapter(http)["versions"] if v["phase"] == "failed")
    assert [entry["phase"] for entry in failed["history"]][-2:] == ["verifying", "failed"]
    assert served_by(http.post(CHAT, json=body("legal"))) == before
    reply = publish(http, with_exam(second, RIGHT, WRONG))
    assert (reply.status_code, reply.json()["version"]) == (200, failed["version"])
    assert phase(http, failed["version"]) == "serving"


def test_the_share_and_the_questions_are_set(
    configuration: dict[str, dict[str, Any]], engine_url: str, second: Path
) -> None:
    configuration["store"] |= {"exam_share": 0.9, "exam_questions": 2}
    with gateway(configuration, engine_url) as http:
        assert "1 of 2" in publish(http, with_exam(second, RIGHT, WRONG, RIGHT)).json()["error"]["message"]
        assert publish(http, with_exam(second, RIGHT, RIGHT, WRONG)).json()["phase"] == "serving"


def test_an_engine_that_dies_in_the_exam_fails_no_version(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    fake.failure = (503, b"")
    path = str(with_exam(second, RIGHT))
    version = http.post("/admin/adapters/legal/versions", json={"path": path}).json()["version"]
    wait_until(lambda: any(each["model"] == f"legal@{version}" for each in fake.requests))
    fake.failure = None
    wait_until(lambda: phase(http, version) == "serving")


@pytest.mark.parametrize(
    ("manifest", "exam", "finding"),
    [
        ({"exam": "../questions.jsonl"}, "", "a file in the same directory"),
        ({"exam": "absent.jsonl"}, "", "absent.jsonl cannot be read"),
        ({"exam": "questions.jsonl"}, "", "at least one question"),
        ({"exam": "questions.jsonl"}, '{"prompt": "Why?"}', "cannot be read"),
        ({"exam": "questions.jsonl"}, '{"prompt": "Why?", "expected": " "}', "at least one question"),
        ({"exam": 3}, "", "manifest.json cannot be read"),
    ],
)
def test_exams_that_cannot_be_used(tmp_path: Path, manifest: dict[str, Any], exam: str, finding: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "questions.jsonl").write_text(exam)
    with pytest.raises(BadExam, match=finding):
        exam_of(tmp_path)


def test_answers_hold_what_is_expected() -> None:
    item = Item("When?", "Period: 14\n days")
    assert item.passes("Type: rent. PERIOD: 14 days.")
    assert not item.passes("Period: 4 days.")
