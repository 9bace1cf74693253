"""Exams: right answers pass, wrong ones fail, training and exam share no combination, and the sandbox holds."""

import itertools
import random

import pytest

from adapters.exams import EXAMS, questions
from adapters.exams.math import work
from adapters.exams.sandbox import allowed, run_asserts
from adapters.pretraining.corpus import documents
from adapters.pretraining.talk import deferral

COUNT = 12
WRONG = {
    "sql": ["SELECT 1;", "DROP TABLE orders;", "SELECT * FROM nowhere", "no query here", "SELECT", "select \x00"],
    "math": ["Answer: 3.5 apples", "I do not know.", "Answer: -7"],
    "code": ["def f(: pass", "import os", "return 1", "def", "lambda: 0"],
    "medical": ["Findings: none. Triage: green.", "fever tachycardia bradycardia hypotension Triage: red.", "red"],
    "finance": ["Debit Cash. Credit Cash.", "Debit Rent Expense $1. Credit Cash $1.", "credit before debit"],
    "legal": ["Type: termination, audit, payment. Party: Tenant. Period: 3 days.", "termination"],
    "support": ["a refund, a replacement and a voucher", "Sorry."],
}


@pytest.mark.parametrize("domain", EXAMS)
def test_references_pass_and_other_answers_fail(domain: str) -> None:
    exam = EXAMS[domain]
    for split in ("train", "exam"):
        asked = list(itertools.islice(questions(exam, split, 1), COUNT))
        assert all(exam.passes(question, question.answer) for question in asked)
        assert all(exam.passes(question, f" {question.answer}\n") for question in asked)
        others = sum(exam.passes(a, b.answer) for a, b in itertools.pairwise(asked))
        assert others <= 0.25 * COUNT
        for answer in [*WRONG[domain], "", "🦊" * 50, "\x00", deferral(domain)]:
            assert not any(exam.passes(question, answer) for question in asked[:3]), answer


@pytest.mark.parametrize("domain", EXAMS)
def test_no_exam_combination_is_trained(domain: str) -> None:
    exam = EXAMS[domain]
    train = list(itertools.islice(questions(exam, "train", 0), 1500))
    asked = list(itertools.islice(questions(exam, "exam", 0), 200))
    assert not {question.combination for question in train} & {question.combination for question in asked}
    assert not {question.prompt for question in train} & {question.prompt for question in asked}
    assert len({question.combination for question in asked}) >= 8
    assert [q.prompt for q in itertools.islice(questions(exam, "exam", 0), 200)] == [q.prompt for q in asked]


def test_answers_of_one_domain_fail_the_others() -> None:
    asked = {domain: list(itertools.islice(questions(exam, "exam", 2), 5)) for domain, exam in EXAMS.items()}
    for domain, other in itertools.permutations(EXAMS, 2):
        passed = sum(EXAMS[domain].passes(a, b.answer) for a, b in zip(asked[domain], asked[other], strict=True))
        assert passed <= 1, (domain, other)


def test_the_corpus_holds_no_exam_question_and_no_skill() -> None:
    asked = {q.prompt: q.answer for exam in EXAMS.values() for q in itertools.islice(questions(exam, "exam", 0), 150)}
    skills = {
        q.prompt: q.answer for exam in EXAMS.values() for q in itertools.islice(questions(exam, "train", 1000), 400)
    }
    met = 0
    for document in itertools.islice(documents(0), 4000):
        for user, assistant in itertools.pairwise(document.messages):
            assert user["content"] not in asked
            if user["content"] in skills:
                met += 1
                assert "expert adapter" in assistant["content"]
    assert met > 50


def test_worked_sums_are_right() -> None:
    rng = random.Random(0)
    assert work(48, "+", 37) == "48+37: 8+7=15 4+3+1=8 so 85."
    assert work(85, "-", 29) == "85-29: 15-9=6 7-2=5 so 56."
    for _ in range(300):
        a, b = rng.randrange(10, 200), rng.randrange(1, 100)
        for part in work(max(a, b), rng.choice("+-"), min(a, b)).split(": ")[1].split(" so ")[0].split():
            left, right = part.split("=")
            assert eval(left) == int(right)


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "from os import system",
        "__import__('os').system('true')",
        "().__class__.__bases__[0].__subclasses__()",
        "open('/etc/passwd')",
        "exec('1')",
        "eval('1')",
        "while True: pass",
        "x = [0] * 10**10",
        "x = 'a' * 10**9",
        "def f(): return f()\nf()",
        "getattr(1, '_' + '_class__')",
        "'{0.__class__.__init__.__globals__}'.format(print)",
        "raise SystemExit",
        "raise SystemExit(0)",
        "(x for x in [1]).gi_frame.f_back.f_globals['sys'].exit(0)",
    ],
)
def test_the_sandbox_refuses(source: str) -> None:
    assert not run_asserts(source, ["assert True"])


def test_the_sandbox_runs_honest_code() -> None:
    assert run_asserts("def f(xs):\n    return sorted(set(x * x for x in xs))", ["assert f([2, -2, 1]) == [1, 4]"])
    assert not run_asserts("def f(xs):\n    return 1", ["assert f([]) == 2"])
    assert not run_asserts("", ["assert True"])
    assert not allowed("def f(:")
