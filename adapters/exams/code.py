"""Code: a Python function over a list, as filter x transformation x reduction; checked by asserts in a sandbox."""

import random
import re

from adapters.exams.question import Question
from adapters.exams.sandbox import run_asserts

# What is done to each number, and which numbers count: words and expression over `x`; {k} is a small constant.
TRANSFORMS = {
    "same": (["the {f}numbers", "the {f}values", "the {f}elements"], "x"),
    "square": (["the squares of the {f}numbers", "the squared {f}values"], "x * x"),
    "double": (["the doubles of the {f}numbers", "twice the {f}values"], "2 * x"),
    "absolute": (["the absolute values of the {f}numbers", "the magnitudes of the {f}elements"], "abs(x)"),
    "plus": (["the {f}numbers plus {k}", "the {f}values increased by {k}"], "x + {k}"),
    "minus": (["the {f}numbers minus {k}", "the {f}values decreased by {k}"], "x - {k}"),
}
FILTERS = {
    "all": ("", ""),
    "even": ("even ", " if x % 2 == 0"),
    "odd": ("odd ", " if x % 2 == 1"),
    "positive": ("positive ", " if x > 0"),
    "negative": ("negative ", " if x < 0"),
    "nonzero": ("nonzero ", " if x != 0"),
}
REDUCTIONS = {
    "sum": (["the sum of {w}", "the total of {w}"], "sum({e} for x in {a}{c})"),
    "list": (["a list of {w}", "{w} as a list"], "[{e} for x in {a}{c}]"),
    "max": (["the maximum of {w}, or 0 if none", "the largest of {w}, or 0"], "max(({e} for x in {a}{c}), default=0)"),
    "min": (["the minimum of {w}, or 0 if none", "the smallest of {w}, or 0"], "min(({e} for x in {a}{c}), default=0)"),
    "sorted": (["a sorted list of {w}", "{w}, sorted"], "sorted({e} for x in {a}{c})"),
    "set": (["the set of {w}", "the distinct values of {w} as a set"], "{{{e} for x in {a}{c}}}"),
}
VERBS = ["get", "find", "take", "pick", "make", "read", "load", "scan"]
NOUNS = ["scores", "items", "data", "marks", "sizes", "prices", "counts", "points"]
ARGUMENTS = ["values", "numbers", "items", "xs", "data", "nums"]
ASKS = [
    "Write a Python function {n}({a}) that returns {what}.",
    "Implement {n}({a}) in Python so that it returns {what}.",
    "Python: define {n}({a}) returning {what}.",
    "I need a Python function called {n} which takes a list {a} and returns {what}.",
]


class CodeExam:
    """One-line functions over a list of integers."""

    domain = "code"

    def draw(self, rng: random.Random) -> Question:
        transform, chosen, reduction = (rng.choice(sorted(table)) for table in (TRANSFORMS, FILTERS, REDUCTIONS))
        adjective, condition = FILTERS[chosen]
        words, expression = TRANSFORMS[transform]
        phrases, template = REDUCTIONS[reduction]
        name, argument = f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}", rng.choice(ARGUMENTS)
        constant = rng.randrange(2, 10)
        what = rng.choice(phrases).format(w=rng.choice(words).format(f=adjective, k=constant))
        prompt = rng.choice(ASKS).format(n=name, a=argument, what=what)
        body = template.format(e=expression.format(k=constant), a=argument, c=condition)
        answer = f"def {name}({argument}):\n    return {body}"
        return Question(prompt, answer, f"{transform}/{chosen}/{reduction}", {"name": name})

    def passes(self, question: Question, answer: str) -> bool:
        source, name = extract_source(answer), question.facts["name"]
        inputs = [[], [4, -7, 3, 0, 8, -2, 3], [-5, -6], [9, 12, 1, 1], [2, -1, 40, 13]]
        scope: dict[str, object] = {}
        exec(question.answer, scope)  # the reference, written by this module
        function = scope[name]
        assert callable(function)
        asserts = [f"assert {name}({case!r}) == {function(case)!r}" for case in inputs]
        return run_asserts(source, asserts)


def extract_source(answer: str) -> str:
    """The code of an answer: a fenced block if there is one, else everything from the first `def`."""
    fenced = re.search(r"```(?:python)?\n(.*?)```", answer, re.DOTALL)
    if fenced:
        return fenced.group(1)
    start = answer.find("def ")
    return answer[start:] if start >= 0 else ""
