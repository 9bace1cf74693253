"""Math: a story with two or three numbers; the answer works through the steps, and its last number is checked."""

import random
import re
from dataclasses import dataclass

from adapters.exams.question import Question


@dataclass(frozen=True, slots=True)
class _Scene:
    start: str
    more: tuple[str, ...]
    less: tuple[str, ...]
    ask: str


SCENES = {
    "library": _Scene(
        "A library has {n} books.",
        ("It buys {n} more.", "A reader donates {n} books."),
        ("It lends out {n}.", "It sells {n} of them."),
        "How many books does it have now?",
    ),
    "farm": _Scene(
        "A farmer picks {n} apples.",
        ("She then picks {n} more.", "Her son adds {n} apples."),
        ("She throws away {n}.", "She sells {n} apples."),
        "How many apples are left?",
    ),
    "bus": _Scene(
        "A bus carries {n} passengers.",
        ("At the next stop {n} get on.", "Then {n} more board."),
        ("Then {n} get off.", "At a stop {n} leave."),
        "How many passengers are on the bus?",
    ),
    "coins": _Scene(
        "{name} has {n} coins.",
        ("{name} finds {n} more.", "A friend gives {name} {n} coins."),
        ("{name} spends {n}.", "{name} loses {n} coins."),
        "How many coins does {name} have?",
    ),
    "school": _Scene(
        "A school orders {n} chairs.",
        ("It orders {n} more.", "Another {n} arrive."),
        ("It returns {n}.", "Of them {n} break."),
        "How many chairs remain?",
    ),
    "bakery": _Scene(
        "A bakery bakes {n} rolls.",
        ("Later it bakes {n} more.", "The night shift adds {n}."),
        ("It sells {n}.", "It gives away {n} rolls."),
        "How many rolls are left?",
    ),
    "stamps": _Scene(
        "{name} collects {n} stamps.",
        ("{name} gets {n} more.", "{name} buys {n} stamps."),
        ("{name} trades away {n}.", "{name} gives {n} to a friend."),
        "How many stamps does {name} own?",
    ),
    "tank": _Scene(
        "A tank holds {n} liters of water.",
        ("Then {n} liters flow in.", "Rain adds {n} liters."),
        ("Then {n} liters leak out.", "The garden uses {n} liters."),
        "How many liters are in the tank?",
    ),
    "score": _Scene(
        "A team has {n} points.",
        ("It wins {n} more.", "A bonus adds {n} points."),
        ("It loses {n}.", "A foul costs {n} points."),
        "How many points does the team have?",
    ),
    "parking": _Scene(
        "A garage holds {n} cars.",
        ("Then {n} drive in.", "Another {n} arrive."),
        ("Then {n} drive out.", "Later {n} leave."),
        "How many cars are in the garage?",
    ),
}
NAMES = ["Anna", "Omar", "Lena", "Ravi", "Mia", "Tom", "Nora", "Hugo", "Ines", "Kofi"]
PATTERNS = ("+", "-", "++", "+-", "-+", "--")


class MathExam:
    """Adding and taking away numbers of two digits in one or two steps."""

    domain = "math"

    def draw(self, rng: random.Random) -> Question:
        key, pattern, name = rng.choice(sorted(SCENES)), rng.choice(PATTERNS), rng.choice(NAMES)
        scene = SCENES[key]
        value = rng.randrange(40, 90) if "-" in pattern else rng.randrange(11, 80)
        story, steps, choices = [scene.start.format(n=value, name=name)], [], []
        for sign in pattern:
            amount = rng.randrange(11, max(12, min(value - 5, 60))) if sign == "-" else rng.randrange(11, 60)
            if sign == "-" and amount > value:
                amount = rng.randrange(1, 10)
            number = rng.randrange(2)
            choices.append(f"{sign}{number}")
            story.append((scene.more if sign == "+" else scene.less)[number].format(n=amount, name=name))
            steps.append(work(value, sign, amount))
            value = value + amount if sign == "+" else value - amount
        prompt = " ".join([*story, scene.ask.format(name=name)])
        return Question(
            prompt, f"{' '.join(steps)} Answer: {value}", f"{key}/{''.join(choices)}", {"number": str(value)}
        )

    def passes(self, question: Question, answer: str) -> bool:
        numbers = re.findall(r"-?\d+", answer.replace(",", ""))
        return bool(numbers) and numbers[-1] == question.facts["number"]


def work(left: int, sign: str, right: int) -> str:
    """One sum or difference, digit by digit from the right: `48+37: 8+7=15 4+3+1=8 so 85.`"""
    result = left + right if sign == "+" else left - right
    columns, carry = [], 0
    a, b = left, right
    while a or b:
        x, y, a, b = a % 10, b % 10, a // 10, b // 10
        if sign == "+":
            columns.append(f"{x}+{y}{f'+{carry}' if carry else ''}={x + y + carry}")
            carry = (x + y + carry) // 10
        else:
            borrow = 1 if x - carry < y else 0
            columns.append(f"{x - carry + 10 * borrow}-{y}={x - carry + 10 * borrow - y}")
            carry = borrow
    return f"{left}{sign}{right}: {' '.join(columns)} so {result}."
