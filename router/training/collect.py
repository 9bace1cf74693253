"""Stage 1, collect: labelled prompts from files or a Hugging Face dataset, cleaned, into one corpus.

Reads JSONL, CSV or ``hf:NAME[:SPLIT]``; every row needs a text and a domain, and may carry ``source``,
``license``, ``form`` and ``also`` (further domains that are just as right). Normalises white space, drops
near-duplicates and whatever overlaps the evaluation files, and writes ``corpus.jsonl`` and ``corpus.json``
(counts by domain, source and licence).

    python -m router.training.collect a.jsonl b.csv run/ --exclude dev.jsonl
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from router.errors import RouterError

OUTLIER = "outlier"
"""Pseudo-domain of rows that no adapter should get: they train the rejection signal."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One labelled prompt. ``also`` lists further domains that count as right."""

    text: str
    domain: str
    source: str = "unknown"
    license: str = "unknown"
    form: str = ""
    also: tuple[str, ...] = field(default=())


def read(data: Path | str) -> list[Prompt]:
    """All rows of one JSONL or CSV file, or of ``hf:NAME[:SPLIT]``; raises `RouterError` with the line."""
    name = str(data)
    if name.startswith("hf:"):
        return [_prompt(row, name, i) for i, row in enumerate(_hugging_face(name), 1)]
    path = Path(data)
    if not path.is_file():
        raise RouterError(f"{path}: no such file; --data takes JSONL, CSV or hf:NAME[:SPLIT]")
    with path.open(encoding="utf-8", newline="") as lines:
        if path.suffix == ".csv":
            return [_prompt(row, path.stem, i) for i, row in enumerate(csv.DictReader(lines), 2)]
        return [_prompt(_json(line, path, i), path.stem, i) for i, line in enumerate(lines, 1) if line.strip()]


def collect(rows: Iterable[Prompt], out: Path, exclude: Iterable[Path | str] = ()) -> list[Prompt]:
    """Clean ``rows`` and write them as the corpus into ``out``; those that overlap the files ``exclude`` go."""
    rows = list(rows)
    random.Random(0).shuffle(rows)
    held = [row for item in exclude for row in read(item)]
    clean = _without_overlap(rows, [row.text for row in held])
    kept = list(_without_near_duplicates(clean))
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / "corpus.jsonl.part"
    with temporary.open("w", encoding="utf-8") as lines:
        for row in kept:
            lines.write(json.dumps(asdict(row), ensure_ascii=True) + "\n")
    temporary.replace(out / "corpus.jsonl")
    card = {
        "rows": len(kept),
        "read": len(rows),
        "overlapping_evaluation": len(rows) - len(clean),
        "near_duplicates": len(clean) - len(kept),
        "domains": dict(Counter(row.domain for row in kept).most_common()),
        "licenses": dict(Counter(row.license for row in kept).most_common()),
        "sources": _by_source(kept),
    }
    (out / "corpus.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return kept


def load_corpus(path: Path) -> list[Prompt]:
    """The rows that `collect` wrote."""
    with path.open(encoding="utf-8") as lines:
        return [_prompt(json.loads(line), path.stem, i) for i, line in enumerate(lines, 1)]


def _by_source(rows: list[Prompt]) -> list[dict[str, Any]]:
    counts = Counter((row.domain, row.source, row.license) for row in rows)
    return [{"domain": d, "source": s, "license": c, "rows": n} for (d, s, c), n in sorted(counts.items())]


def _json(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RouterError(f"{path}:{number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise RouterError(f"{path}:{number}: each line must be a JSON object with 'text' and 'domain'")
    return row


def _prompt(row: dict[str, Any], stem: str, number: int) -> Prompt:
    text = row.get("text") or row.get("prompt")
    domain = row.get("domain") if row.get("domain") is not None else row.get("label")
    if not isinstance(text, str) or not text.strip() or domain in (None, ""):
        raise RouterError(f"{stem}:{number}: each row needs a non-empty 'text' and a 'domain'")
    also = row.get("also") or ()
    if isinstance(also, str):
        also = tuple(part.strip() for part in also.split(",") if part.strip())
    return Prompt(
        text=text.encode("utf-8", "replace").decode().strip(),
        domain=str(domain),
        source=str(row.get("source") or f"own:{stem}"),
        license=str(row.get("license") or "Apache-2.0 (this project)"),
        form=str(row.get("form") or ""),
        also=tuple(str(name) for name in also),
    )


def _hugging_face(name: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    _, repository, *split = name.split(":")
    dataset = load_dataset(repository, split=split[0] if split else "train")
    label = dataset.features.get("label")
    names = getattr(label, "names", None)
    for row in dataset:
        if names and "domain" not in row:
            row["domain"] = names[row["label"]]
        row.setdefault("source", repository)
        yield dict(row)


def _shingles(text: str, width: int) -> list[int]:
    words = ["0" if word.isdigit() else word for word in _WORD.findall(text.lower())]
    if len(words) < width:
        return [crc32(" ".join(words).encode())] if words else [crc32(text.encode())]
    return sorted({crc32(" ".join(words[i : i + width]).encode()) for i in range(len(words) - width + 1)})


def _without_overlap(rows: list[Prompt], held: list[str]) -> list[Prompt]:
    """Rows that share fewer than half of their five-word runs with the held-out texts taken together."""
    known = {shingle for text in held for shingle in _shingles(text, 5)}
    if not known:
        return rows
    return [row for row in rows if _share(_shingles(row.text, 5), known) < 0.5]


def _share(shingles: list[int], known: set[int]) -> float:
    return sum(shingle in known for shingle in shingles) / len(shingles)


def _without_near_duplicates(rows: Iterable[Prompt], sketch: int = 8, same: int = 7) -> Iterator[Prompt]:
    """Bottom-k sketches of three-word runs (Broder 1997); a row that shares most of one kept before goes."""
    seen: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        lowest = _shingles(row.text, 3)[:sketch]
        hits = Counter(other for shingle in lowest for other in seen[shingle])
        if hits and hits.most_common(1)[0][1] >= min(same, len(lowest)):
            continue
        for shingle in lowest:
            seen[shingle].append(number)
        yield row


if __name__ == "__main__":
    import typer

    def main(data: list[str], out: Path, exclude: list[str] = []) -> None:  # noqa: B006
        print(len(collect([row for item in data for row in read(item)], out, exclude)), "rows")

    typer.run(main)
