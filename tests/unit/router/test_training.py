"""The pipeline's parts on tiny data: collecting, balancing, noise, the student and its export, thresholds, figures."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from router import Decision, RouterError, TinyAda
from router.manifest import Manifest, Policy
from router.tokenization import SPECIAL, Tokenizer
from router.training import augment, balance, bench, calibrate, spans
from router.training.collect import Prompt, collect, load_corpus, read
from router.training.distil import Schedule, distil, load, logits, mixed, save
from router.training.evaluate import figures
from router.training.export import export
from router.training.followups import FOLLOWUP, followups
from router.training.replay import replay
from router.training.student import Design

FRUIT = ["apple", "pear", "plum", "cherry", "grape", "lemon", "melon", "peach"]
TOOLS = ["hammer", "saw", "drill", "chisel", "plane", "wrench", "pliers", "file"]


def toy(count: int = 200) -> list[Prompt]:
    rng = random.Random(0)
    rows = []
    for i in range(count):
        domain, words = (("fruit", FRUIT), ("general", TOOLS))[i % 2]
        rows.append(Prompt(" ".join(rng.choices(words, k=4)), domain, f"{domain}-{i % 3}"))
    return rows


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.txt"
    path.write_text("".join(f"{token}\n" for token in (*SPECIAL, *FRUIT, *TOOLS, "thanks", "why")))
    return path


def test_read_jsonl_and_csv(tmp_path: Path) -> None:
    rows = tmp_path / "a.jsonl"
    rows.write_text(json.dumps({"text": " hello ", "domain": "x", "also": ["y"], "source": "s"}) + "\n\n")
    assert read(rows) == [Prompt("hello", "x", "s", "Apache-2.0 (this project)", "", ("y",))]
    table = tmp_path / "b.csv"
    table.write_text('text,label\n"one, two",x\n')
    assert [(row.text, row.domain, row.source) for row in read(table)] == [("one, two", "x", "own:b")]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"text": "x"}', '{"text": " ", "domain": "x"}', '{"text": 3, "domain": "x"}']
)
def test_read_names_the_bad_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "ok", "domain": "x"}\n' + line + "\n")
    with pytest.raises(RouterError, match=":2:"):
        read(path)


def test_read_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="no such file"):
        read(tmp_path / "none.jsonl")


def test_collect_drops_near_duplicates_and_evaluation_texts(tmp_path: Path) -> None:
    held = tmp_path / "dev.jsonl"
    held.write_text(json.dumps({"text": "how do I cancel the flight that I booked for Monday", "domain": "x"}))
    rows = [
        Prompt("How do I cancel the flight that I booked for Tuesday?", "x"),
        Prompt("the quick brown fox jumps over the lazy dog number 12", "x"),
        Prompt("The quick brown fox jumps over the lazy dog, number 34!", "x"),
        Prompt("something else entirely", "y"),
    ]
    kept = collect(rows, tmp_path / "out", [held])
    assert sorted(row.domain for row in kept) == ["x", "y"]
    assert load_corpus(tmp_path / "out" / "corpus.jsonl") == kept
    card = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert (card["rows"], card["overlapping_evaluation"], card["near_duplicates"]) == (2, 1, 1)


def test_weights_balance_domains_and_lift_small_sources() -> None:
    rows = [Prompt("a", "x", "big")] * 100 + [Prompt("b", "x", "small")] * 4 + [Prompt("c", "y", "only")] * 10
    chances = balance.weights(rows)
    assert chances.sum() == pytest.approx(1.0)
    assert chances[:104].sum() == pytest.approx(0.5)
    assert chances[100:104].sum() / chances[:100].sum() == pytest.approx((4 / 100) ** 0.5)


def test_targets_share_mass_with_also_and_labels_end_with_the_rejected() -> None:
    rows = [Prompt("a", "x", also=("y",)), Prompt("b", "y"), Prompt("c", FOLLOWUP)]
    names = balance.labels(rows)
    assert names == ("x", "y", FOLLOWUP, "outlier")
    goals = balance.targets(rows, names)
    np.testing.assert_allclose(goals, np.array([[2 / 3, 1 / 3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), atol=1e-6)
    np.testing.assert_allclose(balance.targets(rows, names, 0.1).sum(1), 1.0, atol=1e-6)


def test_noise_is_deterministic_and_never_empty() -> None:
    text = "What is the interest rate, please?\nI need it for my account."
    first = [augment.augment(text, random.Random(i), lambda: "other") for i in range(200)]
    assert first == [augment.augment(text, random.Random(i), lambda: "other") for i in range(200)]
    assert all(noisy.strip() for noisy in first)
    assert len(set(first)) > 60
    assert all(augment.gibberish(random.Random(i)).strip() for i in range(200))


def test_typos_hit_every_third_word() -> None:
    words = ["interest"] * 9
    changed = [w != "interest" for w in augment.typos(" ".join(words), random.Random(1)).split(" ")]
    assert sum(changed) >= 2
    assert sum(changed) <= 3


def test_without_punctuation() -> None:
    assert augment.without_punctuation("Hi, (you): a-b!  c?") == "Hi you a b c"


def test_followups_are_different_and_of_their_kind() -> None:
    rows = followups(500)
    assert len({row.text for row in rows}) == 500
    assert {row.domain for row in rows} == {FOLLOWUP}


def test_a_student_learns_and_exports_as_it_computes(tmp_path: Path, vocabulary: Path) -> None:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(vocabulary)
    rows = toy()
    names = balance.labels(rows)
    vectors = np.random.default_rng(0).normal(size=(len(tokenizer.vocabulary), 16)).astype(np.float32)
    for pairs in (0, 64):
        design = Design(heads=2, hidden=16, pair_buckets=pairs, pair_width=8)
        student = distil(rows, tokenizer, vectors, design, Schedule(epochs=12, batch=20, outliers=0.1))
        save(student, names, tmp_path)
        student, stored = load(tmp_path / "student.pt")
        assert stored == names
        right = logits(student, tokenizer, [row.text for row in rows]).argmax(1)
        assert np.mean([names[i] == row.domain for i, row in zip(right, rows, strict=True)]) > 0.9
        policy = Policy(1.0, {"fruit": 0.5, "general": 0.5}, {"fruit": 0.3, "general": 0.3})
        manifest = Manifest(names, ("outlier",), policy, {}, (("apple pear", "fruit"),), pairs)
        out = tmp_path / f"weights-{pairs}"
        assert export(student, vocabulary, manifest, out, [row.text for row in rows]) == 0.0
        ada = TinyAda.load(out)
        ada.smoke()
        assert ada.domains == ("fruit", "general")
        assert ada.route("hammer and saw").domain == "general"


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4_000, 3))
    odds = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    rows = [Prompt("x", "abc"[rng.choice(3, p=p)]) for p in odds]
    found = calibrate.temperature((true * 2.5).astype(np.float32), ("a", "b", "c"), rows, np.ones(4_000))
    assert found == pytest.approx(2.5, rel=0.2)


def test_policy_covers_what_was_asked_and_abstains_on_the_worse() -> None:
    rng = np.random.default_rng(0)
    names = ("general", "sql", "outlier")
    rows, scores = [], []
    for _ in range(3_000):
        strength = rng.uniform(0, 5)
        truth = int(rng.random() < 0.5)
        sign = 1 if rng.random() < 1 / (1 + np.exp(-strength)) else -1
        scores.append([-sign * strength / 2 * (2 * truth - 1), sign * strength / 2 * (2 * truth - 1), -9])
        rows.append(Prompt("x", names[truth], "s"))
    found_logits = np.array(scores, dtype=np.float32)
    ones = np.ones(len(rows))
    policy = calibrate.policy(found_logits, names, rows, ones, coverage=0.8)
    found = calibrate.confidences(found_logits, names, rows, policy.temperature)
    limits = np.array([policy.thresholds["general"], policy.thresholds["sql"]])
    served = found.confidence >= limits[found.best]
    assert served.mean() == pytest.approx(0.8, abs=0.05)
    assert found.right[served].mean() > found.right.mean() + 0.02


def test_sources_of_one_family_share_a_fold() -> None:
    rows = [Prompt("x", "a", source) for source in ("natcs-banking", "natcs-insurance", "se:law", "se:money")]
    natcs_banking, natcs_insurance, *_ = calibrate.folds(rows, 7)
    assert natcs_banking == natcs_insurance


def test_figures_by_hand() -> None:
    def said(domain: str, confidence: float, abstained: bool = False) -> Decision:
        return Decision(domain, confidence, {}, abstained, "abstained" if abstained else "resolved", (domain,), 1.0)

    rows = [Prompt("a", "sql"), Prompt("b", "sql"), Prompt("c", "general", also=("sql",)), Prompt("d", "general")]
    decisions = [said("sql", 0.95), said("general", 0.35, True), said("sql", 0.85), said("sql", 0.75)]
    found = figures(rows, decisions)
    assert found["accuracy"] == 0.5
    assert found["coverage"] == 0.75
    assert found["served_accuracy"] == pytest.approx(0.6667)
    assert found["wrong_adapter"] == 0.25
    assert found["ece"] == pytest.approx((0.05 + 0.35 + 0.15 + 0.75) / 4)
    assert found["by_domain"]["sql"] == {"rows": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_spans_are_new_text_and_take_the_teachers_label() -> None:
    long = "First sentence of the text is here. A second one follows it now. Then a third ends all of this text."
    rows = [Prompt(f"{long} Number {i} closes it, as every row needs one.", "x", f"s{i}") for i in range(30)]
    found = spans.cut(rows, [f"{long} Extra words {i}." for i in range(20)], 12)
    assert 6 <= len(found) <= 12
    assert not set(found) & {row.text for row in rows}
    assert all(4 <= len(span.split()) <= 60 for span in found)
    made = spans.labelled(["a", "b"], np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32), ("x", "y"))
    assert [(row.domain, row.form) for row in made] == [("x", spans.FORM), ("y", spans.FORM)]


def test_soft_labels_mix_by_share_and_rule_alone_on_spans() -> None:
    rows = [Prompt("a", "x"), Prompt("b", "x"), Prompt("c", "y", form=spans.FORM)]
    soft = np.array([[0.5, 0.5, 0.0], [np.nan] * 3, [0.6, 0.4, 0.0]], dtype=np.float32)
    goals = mixed(rows, ("x", "y", "outlier"), soft, Schedule(soft=0.4, smoothing=0.0))
    np.testing.assert_allclose(goals, np.array([[0.8, 0.2, 0.0], [1.0, 0.0, 0.0], [0.6, 0.4, 0.0]]), atol=1e-6)


def test_replay_against_itself_finds_no_disagreement(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"text": "Solve 3x = 12 for x."}\n{"messages": [{"role": "user", "content": "thanks"}]}\n')
    found = replay([log])
    assert (found["prompts"], found["disagreement"], found["changes"]) == (2, 0.0, [])
    assert sum(found["served"].values()) == 2


def test_the_bench_renews_its_section_of_the_card(tmp_path: Path) -> None:
    stored = json.loads(bench.BENCH.read_text())
    card = tmp_path / "CARD.md"
    card.write_text(f"# A\n\n{bench.section(stored)}## Policy\nrest\n## Data\n")
    stored["route"]["60"]["p50"] = 12.5
    bench.renew(card, stored)
    assert card.read_text() == f"# A\n\n{bench.section(stored)}## Policy\nrest\n## Data\n"
    assert "| 60 characters | 12.5 |" in card.read_text()
    card.write_text("# A\n")
    with pytest.raises(RouterError, match="no section"):
        bench.renew(card, stored)
