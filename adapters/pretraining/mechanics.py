"""General mechanics for the base: copying, look-up, mapping, comparing, counting and worked sums, in own formats.

None of them is an exam's skill; each is a movement that a skill is made of, so that an adapter has less to learn.
"""

import random
from collections.abc import Callable

from adapters.exams.math import work
from adapters.pretraining.talk import Pair

WORDS = [
    "apple",
    "river",
    "stone",
    "green",
    "cloud",
    "north",
    "paper",
    "silver",
    "garden",
    "window",
    "bridge",
    "summer",
    "letter",
    "winter",
    "candle",
    "forest",
    "island",
    "market",
    "morning",
    "orange",
    "planet",
    "rabbit",
    "school",
    "ticket",
    "valley",
    "yellow",
    "anchor",
    "basket",
    "copper",
    "dragon",
    "engine",
    "finger",
    "harbor",
    "jungle",
    "kitchen",
    "ladder",
    "magnet",
    "needle",
    "ocean",
    "pepper",
    "quartz",
    "ribbon",
    "saddle",
    "temple",
    "violet",
    "walnut",
    "amber",
    "bottle",
    "carpet",
]
KEYS = [
    "name",
    "city",
    "color",
    "price",
    "order",
    "weight",
    "age",
    "amount",
    "client",
    "status",
    "number",
    "level",
    "team",
    "size",
    "code",
    "date",
    "owner",
    "total",
    "party",
    "period",
    "score",
    "model",
    "pulse",
    "rate",
    "room",
    "item",
    "days",
    "street",
    "table",
    "column",
    "value",
    "limit",
    "account",
    "label",
    "reason",
]
_CONSONANTS, _VOWELS = "bcdfghklmnprstvz", "aeiou"


def made_up(rng: random.Random) -> str:
    """A word that means nothing, so that it can only be copied."""
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3)))


def thing(rng: random.Random) -> str:
    """A word, a made-up word, or a number of up to five digits."""
    draw = rng.random()
    if draw < 0.35:
        return str(rng.randrange(10 ** rng.randint(1, 5)))
    if draw < 0.6:
        word = made_up(rng)
        return word.capitalize() if rng.random() < 0.3 else word
    return rng.choice(WORDS)


def repeat(rng: random.Random) -> Pair:
    text = rng.choice([" ", " ", ", "]).join(thing(rng) for _ in range(rng.choice([1, 2, 3, 5, 8, 12, 20])))
    return rng.choice(["Repeat: {t}", "Say this again: {t}", "Copy {t}", "Echo: {t}"]).format(t=text), text


def look_up(rng: random.Random) -> Pair:
    """One or more fields of a record."""
    keys = rng.sample(KEYS, rng.randint(2, 6))
    record = {key: thing(rng) for key in keys}
    link, gap = rng.choice([" is ", ": ", " = ", " "]), rng.choice([", ", "; ", ". "])
    text = gap.join(f"{key}{link}{value}" for key, value in record.items())
    asked = rng.sample(keys, rng.randint(1, min(3, len(keys))))
    prompt = f"{rng.choice(['Record', 'Card', 'Note', 'File'])}: {text}. Give {' and '.join(asked)}."
    if rng.random() < 0.5:
        prompt = f"Give {' and '.join(asked)}. {text}."
    return prompt, ". ".join(f"{key}: {record[key]}" for key in asked) + "."


def fill_in(rng: random.Random) -> Pair:
    """A pattern with places, filled with values given beside it."""
    letters = rng.sample("ABCDEFG", rng.randint(1, 3))
    values = {letter: thing(rng) for letter in letters}
    parts = [rng.choice(WORDS) for _ in range(rng.randint(1, 4))] + letters + rng.choices(letters, k=rng.randint(0, 1))
    rng.shuffle(parts)
    given = ", ".join(f"{letter}={value}" for letter, value in values.items())
    return f"Fill in {' '.join(parts)} with {given}", " ".join(values.get(part, part) for part in parts)


def mapping(rng: random.Random) -> Pair:
    """A small dictionary in the prompt, one or two entries asked for."""
    keys = rng.sample(WORDS, rng.randint(2, 5))
    table = {key: thing(rng) for key in keys}
    asked = rng.sample(keys, rng.randint(1, 2))
    given = ", ".join(f"{key} -> {value}" for key, value in table.items())
    return f"Map {given}. Now: {' '.join(asked)}", " ".join(table[key] for key in asked)


def compare(rng: random.Random) -> Pair:
    """Numbers against limits."""
    answers, parts = [], []
    for _ in range(rng.randint(1, 3)):
        a = rng.randrange(10, 200)
        b = max(1, a + rng.choice([-1, 1]) * rng.randrange(1, 40))
        text = (str(a), str(b)) if rng.random() < 0.7 else (f"{a // 10}.{a % 10}", f"{b // 10}.{b % 10}")
        parts.append(f"{text[0]} and {text[1]}")
        answers.append("above" if a > b else "below" if a < b else "equal")
    return f"Compare {', '.join(parts)}", ", ".join(answers)


def sums(rng: random.Random) -> Pair:
    """Worked sums and differences, up to two in a row."""
    value, steps, text = rng.randrange(10, 100), [], ""
    text = str(value)
    for _ in range(rng.choice([1, 1, 2])):
        sign = rng.choice("+-")
        amount = rng.randrange(1, 100) if sign == "+" else rng.randrange(1, max(2, min(value, 100)))
        if sign == "-" and amount > value:
            sign = "+"
        steps.append(work(value, sign, amount))
        text += f"{sign}{amount}"
        value = value + amount if sign == "+" else value - amount
    return f"Work out {text}", " ".join(steps)


def facts_of_digits(rng: random.Random) -> Pair:
    """The tables of one digit, several at a time."""
    parts = []
    for _ in range(rng.randint(3, 6)):
        a, b = rng.randrange(10), rng.randrange(10)
        draw = rng.random()
        if draw < 0.4:
            parts.append(f"{a}+{b}={a + b}")
        elif draw < 0.6:
            parts.append(f"{a}+{b}+1={a + b + 1}")
        else:
            parts.append(f"{a + b}-{b}={a}")
    return "Tables", " ".join(parts)


def count(rng: random.Random) -> Pair:
    items = [rng.choice(WORDS) for _ in range(rng.randint(1, 7))]
    return f"Count: {', '.join(items)}", f"{', '.join(f'{n} {item}' for n, item in enumerate(items, 1))}. {len(items)}."


def pick(rng: random.Random) -> Pair:
    """The entries of a list that carry a mark."""
    items = [(rng.choice(WORDS), rng.random() < 0.5) for _ in range(rng.randint(3, 6))]
    chosen = [word for word, marked in items if marked]
    text = ", ".join(f"{word} {'yes' if marked else 'no'}" for word, marked in items)
    return f"List what has yes: {text}", ", ".join(chosen) or "nothing"


TASKS: list[tuple[Callable[[random.Random], Pair], float]] = [
    (repeat, 2.0),
    (look_up, 3.0),
    (fill_in, 2.0),
    (mapping, 2.0),
    (compare, 1.5),
    (sums, 4.0),
    (facts_of_digits, 1.0),
    (count, 0.5),
    (pick, 1.0),
]


def mechanic(rng: random.Random) -> Pair:
    """One exercise, drawn by the weights above."""
    task = rng.choices([task for task, _ in TASKS], [weight for _, weight in TASKS])[0]
    return task(rng)
