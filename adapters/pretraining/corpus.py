"""The base's corpus: endless documents, each a raw text or a chat, written by generators alone.

More than half is general mechanics, several exercises a chat and the loss on their answers alone, since the words of
an exercise are drawn at random and cannot be foretold. The rest is the domains' language (questions of the training
split that the base defers, and texts of the kind that experts write, never a question with its answer) and small talk.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from adapters.exams import EXAMS, questions
from adapters.pretraining.mechanics import mechanic
from adapters.pretraining.talk import deferral, small_talk

SYSTEMS = ["You are a helpful assistant.", "You are Zephyra.", "Answer briefly.", "Be kind and short."]


@dataclass(frozen=True, slots=True)
class Document:
    """A text as it stands, or a conversation to be put into the chat template."""

    text: str = ""
    messages: tuple[dict[str, str], ...] = ()
    # Learn from the assistant's turns only.
    answers_only: bool = False


def documents(seed: int) -> Iterator[Document]:
    """Endless documents; the same seed gives the same ones."""
    rng = random.Random(f"corpus/{seed}")
    streams = {domain: questions(exam, "train", seed + 1000) for domain, exam in EXAMS.items()}
    while True:
        draw = rng.random()
        if draw < 0.6:
            exercises = [mechanic(rng) for _ in range(rng.choice([1, 2, 3, 4]))]
            yield Document(messages=_conversation(rng, exercises), answers_only=True)
            continue
        if draw < 0.72:
            pairs = [small_talk(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        else:
            domain = rng.choice(sorted(streams))
            question = next(streams[domain])
            if draw < 0.86:
                yield Document(text=question.answer)
                continue
            pairs = [(question.prompt, deferral(domain))]
        yield Document(messages=_conversation(rng, pairs))


def _conversation(rng: random.Random, pairs: list[tuple[str, str]]) -> tuple[dict[str, str], ...]:
    messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] if rng.random() < 0.1 else []
    for ask, answer in pairs:
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return tuple(messages)
