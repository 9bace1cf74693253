"""The small exam that an adapter may bring along: questions whose answers must hold what is expected.

The manifest of the adapter names it, `"exam": "exam.jsonl"`, a file beside it with one object a line,
`{"prompt": "...", "expected": "..."}`. The store keeps it with the version as `exam.jsonl`.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from adapters.validation import AdapterError

EXAM = "exam.jsonl"
MANIFEST = "manifest.json"
# What an exam's file may have, in bytes.
MOST_BYTES = 2**20


class BadExam(AdapterError):
    """The exam that a manifest names cannot be used."""

    code = "bad_exam"


class Item(msgspec.Struct, frozen=True):
    """A question, and what its answer must contain; case and runs of white space count for nothing."""

    prompt: str
    expected: str

    def passes(self, answer: str) -> bool:
        return _plain(self.expected) in _plain(answer)


@dataclass(frozen=True, slots=True)
class Result:
    """How many of an exam's questions were answered right."""

    passed: int
    asked: int

    @property
    def share(self) -> float:
        return self.passed / self.asked

    def __str__(self) -> str:
        return f"{self.passed} of {self.asked} questions of its exam ({self.share:.2f})"


class _Manifest(msgspec.Struct):
    exam: str | None = None


def exam_of(directory: Path) -> Path | None:
    """The exam that the adapter in `directory` brings along, if any, readable and whole. Raises `BadExam`."""
    try:
        name = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=_Manifest).exam
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise BadExam(f"{MANIFEST} cannot be read: {error}") from None
    if name is None:
        return None
    if not name or name != Path(name).name:
        raise BadExam(f"'exam' in {MANIFEST} is {name[:80]!r}: give the name of a file in the same directory")
    read_exam(directory / name)
    return directory / name


def read_exam(path: Path) -> list[Item]:
    """Its questions, at least one. Raises `BadExam`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadExam(f"{path.name} has more than {MOST_BYTES} bytes: an exam is a few questions")
        lines = path.read_bytes().splitlines()
        items = [msgspec.json.decode(line, type=Item) for line in lines if line.strip()]
    except (OSError, msgspec.MsgspecError) as error:
        text = 'an exam has lines {"prompt": "...", "expected": "..."}'
        raise BadExam(f"{path.name} cannot be read: {error}; {text}") from None
    if not items or not all(_plain(item.expected) and item.prompt.strip() for item in items):
        raise BadExam(f"{path.name} must have at least one question, each with a prompt and what is expected")
    return items


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
