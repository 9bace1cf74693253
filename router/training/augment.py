"""Label-keeping noise for prompts: typos, lost punctuation, wrappers, truncation, multi-turn joins, gibberish.

Each function takes a text and a `random.Random` and returns a text; `augment` picks among them at the rates that
training uses. The three robustness tests of the evaluation (`typos`, `str.upper`, `without_punctuation`) are here
too, so that training and measuring speak of the same thing.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence

_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {key: "".join(row[max(0, i - 1) : i] + row[i + 1 : i + 2]) for row in _KEYS for i, key in enumerate(row)}
_PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation})

OPENERS = (
    "hi, ", "hello! ", "hey ", "good morning. ", "please help: ", "please help me with this: ", "quick question: ",
    "can you help? ", "so ", "ok so ", "um, ", "sorry to bother you but ", "one more thing: ", "question: ", "Q: ",
    "I have been stuck on this for hours. ", "not sure who to ask. ", "I need an answer today. ", "urgent!! ",
    "Could you please answer this? ", "I'd like to know: ", "tell me: ", "explain like I'm five: ", "briefly: ",
    "step by step please: ", "my colleague asked me this: ", "my son asks: ", "for an exam: ", "homework: ",
    "Answer the following question.\n", "Here is my question:\n", "Read this carefully and reply.\n\n", "Task: ",
    "You are a helpful assistant. ", "Please respond in English. ", "Think before you answer. ", "[urgent] ", "> ",
    "hey there, hope you're well. ", "Dear team,\n", "To whom it may concern,\n\n", "Subject: question\n\n",
)  # fmt: skip
CLOSERS = (
    " thanks", " thank you!", " please", " Thanks in advance.", " any help appreciated", " asap", " pls", " ?",
    "\n\nThanks,\nAlex", "\nBest regards", " Keep it short.", " Answer in one sentence.", " I am a beginner.", " lol",
    " What do you think?", " Explain your answer.", " Cheers", " Let me know.", "\n\nSent from my phone", "!!",
    " no idea where to start", " can you explain", " and why?", " Please be detailed.", " in simple words",
)  # fmt: skip
FILLERS = ("um", "uh", "like", "you know", "well", "so", "basically", "actually", "please", "just")


def typos(text: str, rng: random.Random, every: int = 3) -> str:
    """One slip (swap, loss, doubling, neighbouring key) in every ``every``-th word of three letters or more."""
    words = text.split(" ")
    for i in range(rng.randrange(every), len(words), every):
        words[i] = _slip(words[i], rng)
    return " ".join(words)


def without_punctuation(text: str) -> str:
    """ASCII punctuation becomes spaces, runs of spaces one."""
    return " ".join(text.translate(_PUNCTUATION).split())


def wrapped(text: str, rng: random.Random) -> str:
    """A phrase that says nothing about the domain, in front, behind, or both."""
    where = rng.random()
    if where < 0.7:
        text = rng.choice(OPENERS) + text
    if where > 0.5:
        text = text + rng.choice(CLOSERS)
    return text


def truncated(text: str, rng: random.Random) -> str:
    """The beginning, or the end, of a text: at least six words of it."""
    words = text.split(" ")
    if len(words) < 9:
        return text
    keep = rng.randint(max(6, len(words) // 2), len(words) - 1)
    return " ".join(words[:keep] if rng.random() < 0.6 else words[-keep:])


def spoken(text: str, rng: random.Random) -> str:
    """As a voice interface hears it: lower case, no punctuation, a filler here and there."""
    words = without_punctuation(text).lower().split(" ")
    for _ in range(rng.randint(0, 1 + len(words) // 12)):
        words.insert(rng.randint(0, len(words)), rng.choice(FILLERS))
    return " ".join(words)


def respaced(text: str, rng: random.Random) -> str:
    """Line ends lost or doubled, as pasting does."""
    return text.replace("\n", rng.choice((" ", "\n\n", "\n    ")))


def joined(text: str, other: str, rng: random.Random) -> str:
    """Two prompts of one domain as consecutive turns."""
    first, second = (text, other) if rng.random() < 0.5 else (other, text)
    template = rng.choice(("{}\n{}", "{}\n\n{}", "{} {}", "User: {}\nUser: {}", "{}\nalso, {}", "1. {}\n2. {}"))
    return template.format(first, second)


def gibberish(rng: random.Random) -> str:
    """Text that means nothing: keyboard runs, random letters, digits, symbols."""
    kind = rng.randrange(5)
    if kind == 0:
        letters = string.ascii_lowercase
        return " ".join("".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(rng.randint(1, 14)))
    if kind == 1:
        row = rng.choice(_KEYS)
        return "".join(rng.choices(row, k=rng.randint(4, 30)))
    if kind == 2:
        return " ".join(str(rng.randrange(10 ** rng.randint(1, 9))) for _ in range(rng.randint(1, 12)))
    if kind == 3:
        return "".join(rng.choices(string.punctuation, k=rng.randint(1, 25)))
    alphabet = string.ascii_letters + string.digits + "   "
    return "".join(rng.choices(alphabet, k=rng.randint(6, 80))).strip() or "xx"


def augment(text: str, rng: random.Random, partner: Callable[[], str] | None = None) -> str:
    """A copy of ``text`` with none, one or several kinds of noise; ``partner`` gives another of its domain."""
    if partner is not None and rng.random() < 0.06:
        text = joined(text, partner(), rng)
    for rate, change in _RATES:
        if rng.random() < rate:
            text = change(text, rng)
    return text


def _slip(word: str, rng: random.Random) -> str:
    if len(word) < 3:
        return word
    i = rng.randrange(len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + (_NEIGHBOURS.get(word[i].lower()) or "e")[0] + word[i + 1 :]


_RATES: Sequence[tuple[float, Callable[[str, random.Random], str]]] = (
    (0.10, truncated),
    (0.18, wrapped),
    (0.08, respaced),
    (0.06, spoken),
    (0.10, lambda text, _: without_punctuation(text)),
    (0.14, typos),
    (0.05, lambda text, _: text.upper()),
)
