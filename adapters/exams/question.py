"""What an exam is: questions drawn at random, split by their combination, and a check of answers."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

Split = Literal["train", "exam"]
EXAM_SHARE = 5  # one combination in five is kept for the exam


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, a right answer, the combination that it stands for, and the facts that the check needs."""

    prompt: str
    answer: str
    combination: str
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def split(self) -> Split:
        """Where the combination belongs, for ever: a hash decides, not the order of drawing."""
        digest = hashlib.blake2b(self.combination.encode(), digest_size=4).digest()
        return "exam" if int.from_bytes(digest) % EXAM_SHARE == 0 else "train"


class Exam(Protocol):
    """One domain's skill."""

    @property
    def domain(self) -> str: ...

    def draw(self, rng: random.Random) -> Question:
        """A question of either split."""
        ...

    def passes(self, question: Question, answer: str) -> bool:
        """Whether `answer`, as a model wrote it, is right. Never raises for a wrong one."""
        ...


def questions(exam: Exam, split: Split, seed: int) -> Iterator[Question]:
    """Endless questions of one split, each prompt once; the same seed gives the same ones."""
    rng = random.Random(f"{exam.domain}/{split}/{seed}")
    seen: set[str] = set()
    while True:
        question = exam.draw(rng)
        if question.split == split and question.prompt not in seen:
            seen.add(question.prompt)
            yield question
