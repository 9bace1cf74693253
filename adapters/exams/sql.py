"""SQL: a table is shown, a query is asked for; it passes when it gives the reference's rows."""

import random
import re
import sqlite3
from dataclasses import dataclass

from adapters.exams.question import Question

TEXT_VALUES = {
    "city": ["Oslo", "Lima", "Cairo", "Paris", "Quito", "Delhi", "Tokyo", "Milan", "Porto", "Seoul"],
    "country": ["Norway", "Peru", "Egypt", "France", "Chile", "India", "Japan", "Italy", "Kenya", "Spain"],
    "status": ["open", "closed", "paid", "late", "active", "blocked"],
    "color": ["red", "blue", "green", "black", "white", "grey"],
    "team": ["alpha", "delta", "omega", "sigma", "gamma"],
    "level": ["junior", "senior", "lead", "trainee", "expert"],
}
TABLES = {
    "orders": (["customer"], ["city", "status"], ["total", "items"]),
    "employees": (["name"], ["team", "level"], ["salary", "age"]),
    "products": (["title"], ["color", "country"], ["price", "stock"]),
    "invoices": (["client"], ["status", "country"], ["amount", "days"]),
    "students": (["name"], ["city", "level"], ["score", "age"]),
    "cars": (["model"], ["color", "city"], ["price", "mileage"]),
    "tickets": (["owner"], ["status", "team"], ["hours", "votes"]),
    "shops": (["name"], ["city", "country"], ["sales", "rent"]),
}
AGGREGATES = {
    "SUM": ["the sum of {c}", "the total of {c}", "{c} added up"],
    "AVG": ["the average {c}", "the mean {c}", "the average of {c}"],
    "MAX": ["the highest {c}", "the largest {c}", "the maximum {c}"],
    "MIN": ["the lowest {c}", "the smallest {c}", "the minimum {c}"],
}
ASKS = [
    "Write a SQL query that returns {what} from {t}{where}.",
    "Which SQL query gives {what} in table {t}{where}?",
    "SELECT statement for {what} from the {t} table{where}, please.",
    "I need a query on {t}: {what}{where}.",
    "How do I query {what} from {t}{where} in SQL?",
]
EQUAL = ["where {c} is {v}", "with {c} equal to {v}", "whose {c} is {v}"]
MORE = ["where {c} is above {v}", "with {c} greater than {v}", "with {c} over {v}"]
LESS = ["where {c} is below {v}", "with {c} less than {v}", "with {c} under {v}"]
ROWS = 30
MAX_STEPS = 200_000


@dataclass(frozen=True, slots=True)
class _Filter:
    words: str
    condition: str
    kind: str


class SqlExam:
    """A SELECT over one table: column, aggregate, count, grouping or ranking, with or without a condition."""

    domain = "sql"

    def draw(self, rng: random.Random) -> Question:
        table = rng.choice(sorted(TABLES))
        labels, texts, numbers = TABLES[table]
        columns = ["id INTEGER", *(f"{c} TEXT" for c in labels + texts), *(f"{c} INTEGER" for c in numbers)]
        schema = f"CREATE TABLE {table} ({', '.join(columns)});"
        shape = rng.choice(["column", "column", "aggregate", "aggregate", "count", "top", "group"])
        where = _filter(rng, texts, numbers) if shape in ("column", "aggregate", "count") else _Filter("", "", "all")
        if shape == "column":
            target = rng.choice(labels + texts)
            what, select = rng.choice(["the {c}", "every {c}", "the {c} of all rows"]).format(c=target), target
        elif shape == "aggregate":
            function, number = rng.choice(sorted(AGGREGATES)), rng.choice(numbers)
            what = rng.choice(AGGREGATES[function]).format(c=number)
            target, select = f"{function} {number}", f"{function}({number})"
        elif shape == "count":
            what, target, select = rng.choice(["the number of rows", "how many rows there are"]), "rows", "COUNT(*)"
        else:
            return _ranked_or_grouped(rng, schema, table, shape)
        prompt = rng.choice(ASKS).format(what=what, t=table, where=f" {where.words}" if where.words else "")
        query = f"SELECT {select} FROM {table}{f' WHERE {where.condition}' if where.condition else ''};"
        return Question(f"{schema} {prompt}", query, f"{table}/{target}/{where.kind}", {"schema": schema})

    def passes(self, question: Question, answer: str) -> bool:
        query = extract_query(answer)
        if not query:
            return False
        for seed in range(3):
            database = _fill(question.facts["schema"], question.answer, seed)
            try:
                expected, got = _rows(database, question.answer), _rows(database, query)
            except (sqlite3.Error, sqlite3.Warning, ValueError):
                return False
            finally:
                database.close()
            ordered = "ORDER BY" in question.answer
            if (got if ordered else sorted(map(repr, got))) != (expected if ordered else sorted(map(repr, expected))):
                return False
        return True


def extract_query(answer: str) -> str:
    """The first SELECT statement of an answer, with or without a code fence or words around it."""
    found = re.search(r"\bselect\b[^;`]*", answer, re.IGNORECASE)
    return found.group().strip() if found else ""


def _filter(rng: random.Random, texts: list[str], numbers: list[str]) -> _Filter:
    kind = rng.choice(["none", "text", "text", "more", "less"])
    if kind == "none":
        return _Filter("", "", "all")
    if kind == "text":
        column = rng.choice(texts)
        value = rng.choice(TEXT_VALUES[column])
        return _Filter(rng.choice(EQUAL).format(c=column, v=value), f"{column} = '{value}'", f"{column}=")
    column, number = rng.choice(numbers), rng.randrange(15, 90)
    words, sign = (MORE, ">") if kind == "more" else (LESS, "<")
    return _Filter(rng.choice(words).format(c=column, v=number), f"{column} {sign} {number}", f"{column}{sign}")


def _ranked_or_grouped(rng: random.Random, schema: str, table: str, shape: str) -> Question:
    labels, texts, numbers = TABLES[table]
    if shape == "top":
        number, count = rng.choice(numbers), rng.randrange(2, 10)
        order, words = rng.choice([("DESC", "highest"), ("DESC", "largest"), ("ASC", "lowest"), ("ASC", "smallest")])
        label = rng.choice(labels + texts)
        what = f"the {label} of the {count} rows with the {words} {number}"
        query = f"SELECT {label} FROM {table} ORDER BY {number} {order} LIMIT {count};"
        combination = f"{table}/{label}/top {order} {number}"
    else:
        column = rng.choice(texts)
        what = rng.choice([f"the number of rows per {column}", f"how many rows each {column} has"])
        query = f"SELECT {column}, COUNT(*) FROM {table} GROUP BY {column};"
        combination = f"{table}/group {column}"
    prompt = rng.choice(ASKS).format(what=what, t=table, where="")
    return Question(f"{schema} {prompt}", query, combination, {"schema": schema})


def _fill(schema: str, reference: str, seed: int) -> sqlite3.Connection:
    """A database with rows that tell queries apart: numbers are distinct, values of conditions occur."""
    rng = random.Random(f"{reference}/{seed}")
    database = sqlite3.connect(":memory:")
    database.execute(schema)
    table = schema.split()[2]
    columns = [column.split() for column in schema[schema.index("(") + 1 : schema.rindex(")")].split(", ")]
    numbers = {name: rng.sample(range(10, 99), ROWS) for name, kind in columns if kind == "INTEGER"}
    for row in range(ROWS):
        values = [
            numbers[name][row] if kind == "INTEGER" else rng.choice(TEXT_VALUES.get(name, [f"{name}{row}"]))
            for name, kind in columns
        ]
        database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
    database.commit()
    return database


def _rows(database: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    """Run one read-only query with a bound on its steps."""
    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
    database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY)
    database.set_progress_handler(lambda: 1, MAX_STEPS)
    return database.execute(query).fetchall()
