"""The shipped TinyAda through its public interface: decisions, conversations, loading, any input."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Decision, RouterError, TinyAda
from router.manifest import SHIPPED

DOMAINS = {"code", "sql", "math", "medical", "finance", "legal", "support", "general"}
CLEAR = [
    ("Implement a binary search tree in C++ with an insert method.", "code"),
    ("Write a SELECT that joins customers and orders and counts orders per customer.", "sql"),
    ("Find all real roots of the polynomial x^2 - 5x + 6.", "math"),
    ("Which antibiotic is first choice for bacterial pneumonia in adults?", "medical"),
    ("What is my current account balance and when is my credit card payment due?", "finance"),
    ("Does the limitation of liability clause in this contract cover negligence?", "legal"),
    ("My parcel has not arrived, please send a replacement or refund my order.", "support"),
    ("Write a bedtime story about a dragon who is afraid of the dark.", "general"),
]
WILD = [
    "",
    " ",
    "\x00" * 50,
    "\ud800\udfff",
    "é" * 5_000,
    "😀" * 2_000,
    "שלום עולם",
    "a" * 1_000_000,
    "\n" * 9_000,
    "ﷺ" * 3_000,
]


@pytest.fixture(scope="module")
def ada() -> TinyAda:
    return TinyAda.load()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "weights"))


def check(ada: TinyAda, found: Decision) -> None:
    assert found.domain in ada.domains
    assert 0.0 <= found.confidence <= 1.0
    assert set(found.scores) == set(ada.domains)
    assert sum(found.scores.values()) == pytest.approx(1.0)
    assert found.abstained == (found.reason == "abstained")
    assert set(found.domains) <= set(ada.domains)
    assert found.microseconds > 0


def user(*texts: str) -> list[dict[str, str]]:
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "Sure."}] for text in texts]
    return [message for turn in turns for message in turn][:-1]


@pytest.mark.parametrize(("text", "domain"), CLEAR)
def test_clear_prompts(ada: TinyAda, text: str, domain: str) -> None:
    found = ada.route(text)
    check(ada, found)
    assert (found.domain, found.reason) == (domain, "resolved")
    assert found.domains[0] == domain


def test_shipped_weights_have_the_domains_and_pass_their_smoke_test(ada: TinyAda) -> None:
    assert set(ada.domains) == DOMAINS
    assert len(ada.digest) == 12
    assert ada.digest == TinyAda.load(SHIPPED).digest
    ada.smoke()


def test_shipped_weights_fit_their_size() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 8_000_000


@pytest.mark.parametrize("text", WILD, ids=range(len(WILD)))
def test_wild_texts(ada: TinyAda, text: str) -> None:
    check(ada, ada.route(text))


@given(st.text(alphabet=st.characters(), max_size=400))
def test_any_text(text: str) -> None:
    ada = _shared()
    check(ada, ada.route(text))


@pytest.mark.parametrize(
    "text",
    [
        "asdkjh qwlekj zxmcn qpwoei alskdj",
        "¿Dónde está la estación de tren más cercana?",
        "今天天气怎么样",
        "%$#@ !!! ^^ ~~ ``",
    ],
)
def test_foreign_and_meaningless_texts_get_no_adapter(ada: TinyAda, text: str) -> None:
    found = ada.route(text)
    assert found.abstained or found.domain == "general"


def test_a_question_after_a_long_paste_counts(ada: TinyAda) -> None:
    paste = "2024-05-01 12:00:00 INFO worker started\n" * 1_500
    found = ada.route(paste + "\nWrite a SQL query that counts these rows per day in the table events.")
    assert found.domain in ("sql", "code")


def test_allowed_restricts_the_domains(ada: TinyAda) -> None:
    text = CLEAR[3][0]
    assert ada.route(text, allowed={"medical"}).domain == "medical"
    other = ada.route(text, allowed={"sql"})
    assert other.abstained or other.domain == "general"
    assert set(other.domains) <= {"sql", "general"}
    assert ada.route(text, allowed=set()).domain == "general"


def test_a_single_turn_is_routed_like_its_text(ada: TinyAda) -> None:
    for text, domain in CLEAR:
        found = ada.route_conversation(user(text))
        assert (found.domain, found.confidence) == (domain, ada.route(text).confidence)


@pytest.mark.parametrize("later", ["thanks!", "ok do it", "and the year before?", "why?", "can you shorten that?"])
def test_a_leaning_turn_keeps_the_domain(ada: TinyAda, later: str) -> None:
    for text, domain in (CLEAR[1], CLEAR[4], CLEAR[6]):
        found = ada.route_conversation(user(text, later))
        assert (found.domain, found.reason) == (domain, "sticky")


def test_a_clear_change_switches_at_once(ada: TinyAda) -> None:
    for (first, _), (second, domain) in zip(CLEAR, CLEAR[1:] + CLEAR[:1], strict=True):
        found = ada.route_conversation(user(first, second))
        assert (found.domain, found.reason) == (domain, "resolved")


def test_system_prompts_and_answers_do_not_decide(ada: TinyAda) -> None:
    messages = [
        {"role": "system", "content": "You are a lawyer. Legal contracts and court law only."},
        {"role": "user", "content": [{"type": "text", "text": CLEAR[3][0]}]},
        {"role": "assistant", "content": "SELECT COUNT(*) FROM orders"},
    ]
    assert ada.route_conversation(messages).domain == "medical"


@pytest.mark.parametrize(
    "messages", [None, [], {}, "text", [None], [{"role": "user"}], [{"role": "user", "content": 5}]]
)
def test_malformed_conversations(ada: TinyAda, messages: Any) -> None:
    check(ada, ada.route_conversation(messages))


def test_threads_agree(ada: TinyAda) -> None:
    texts = [f"{text} {i}" for i in range(60) for text, _ in CLEAR]
    alone = [ada.route(text).scores for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert [found.scores for found in pool.map(ada.route, texts)] == alone


def test_a_directory_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"no manifest\.json"):
        TinyAda.load(tmp_path)


def test_a_model_with_other_inputs_is_refused(copy: Path) -> None:
    stored = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**stored, "pair_buckets": 0}))
    with pytest.raises(RouterError, match="must take"):
        TinyAda.load(copy)


@pytest.mark.parametrize("name", ["model.onnx", "tables.bin", "vocabulary.txt"])
def test_changed_and_missing_files_are_refused(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(RouterError, match=name):
        TinyAda.load(copy)
    (copy / name).unlink()
    with pytest.raises(RouterError, match=f"lacks {name}"):
        TinyAda.load(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "format must be"),
        ("labels", ["general"], "at least two"),
        ("smoke", [], "smoke"),
        ("surprise", 1, "unknown"),
        ("policy", {"temperature": 1.0, "thresholds": {}, "mentions": {}}, "thresholds"),
        ("labels", ["code", "sql", "math", "medical", "finance", "legal", "support", "general"], "outputs"),
    ],
)
def test_wrong_manifests_are_refused(copy: Path, key: str, value: object, message: str) -> None:
    stored = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**stored, key: value}))
    with pytest.raises(RouterError, match=message):
        TinyAda.load(copy)


def test_a_manifest_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_text("{")
    with pytest.raises(RouterError, match="cannot be read"):
        TinyAda.load(copy)


def test_a_failed_smoke_test_says_what_went_where(copy: Path) -> None:
    stored = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**stored, "smoke": [[CLEAR[0][0], "medical"]]}))
    with pytest.raises(RouterError, match="went to code, not to medical"):
        TinyAda.load(copy).smoke()


def test_the_runtime_needs_no_training_library() -> None:
    heavy = "('torch', 'transformers', 'sklearn', 'fastapi')"
    code = f"import sys, router; router.TinyAda.load().route('x'); print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout.strip() == "[]"


_LOADED: list[TinyAda] = []


def _shared() -> TinyAda:
    if not _LOADED:
        _LOADED.append(TinyAda.load())
    return _LOADED[0]
