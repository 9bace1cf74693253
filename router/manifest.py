"""The directory of a saved TinyAda: which files it has, and what its manifest says.

A directory is valid if and only if ``manifest.json`` is there (written last) and the digests in it agree.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from router.errors import RouterError

FORMAT = 1
MANIFEST, MODEL, TABLES, VOCABULARY = "manifest.json", "model.onnx", "tables.bin", "vocabulary.txt"
FILES = (MODEL, TABLES, VOCABULARY)
"""``tables.bin`` holds the model's large constants, which onnxruntime maps into memory rather than reads."""
STATISTICS = "statistics.npz"
"""There where domains can be added from examples (`router.added`)."""
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Policy:
    """How probabilities become decisions.

    ``temperature`` divides the logits. ``thresholds``: least confidence by domain, below it TinyAda abstains.
    ``mentions``: least probability by domain to be listed in ``Decision.domains``. ``margin``: by how much a later
    turn must be more probable than the domain of the conversation to switch. ``slip``: probability that a turn
    leans on the ones before it, above which it cannot switch.
    """

    temperature: float
    thresholds: dict[str, float]
    mentions: dict[str, float]
    margin: float = 0.2
    slip: float = 0.5


@dataclass(frozen=True, slots=True)
class Manifest:
    """``labels``: the model's outputs in order, domains first; those in ``rejected`` are no domains.

    ``files``: SHA-256 by file name. ``smoke``: (text, domain) pairs that must route right. ``trained``: counts and
    figures, for people.
    """

    labels: tuple[str, ...]
    rejected: tuple[str, ...]
    policy: Policy
    files: dict[str, str]
    smoke: tuple[tuple[str, str], ...]
    pair_buckets: int = 0
    version: str = "0"
    trained: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(label for label in self.labels if label not in self.rejected)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any file, label or threshold."""
        stated = {key: value for key, value in asdict(self).items() if key not in ("trained", "smoke")}
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def read_manifest(directory: Path) -> Manifest:
    """The manifest of ``directory``, its files' digests checked; raises `RouterError` saying what is wrong."""
    path = directory / MANIFEST
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RouterError(f"{directory} holds no {MANIFEST}: not a TinyAda directory, or not complete") from error
    except (OSError, ValueError) as error:
        raise RouterError(f"{path} cannot be read: {error}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise RouterError(f"{path}: format must be {FORMAT}; train again with this version of zephyra")
    try:
        manifest = Manifest(
            **{
                **stored,
                "labels": tuple(stored["labels"]),
                "rejected": tuple(stored["rejected"]),
                "policy": Policy(**stored["policy"]),
                "smoke": tuple((text, domain) for text, domain in stored["smoke"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RouterError(f"{path}: {error!r}; keys missing or unknown") from error
    _check(manifest, directory)
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, last and whole, with the digests of the files beside it."""
    files = {name: _sha256(directory / name) for name in files_of(directory)}
    stored = {**asdict(manifest), "files": files}
    temporary = directory / (MANIFEST + ".part")
    temporary.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(directory / MANIFEST)


def files_of(directory: Path) -> tuple[str, ...]:
    """The files beside the manifest, the optional one included where it is there."""
    return (*FILES, STATISTICS) if (directory / STATISTICS).is_file() else FILES


def _check(manifest: Manifest, directory: Path) -> None:
    where = directory / MANIFEST
    if len(manifest.domains) < 2:
        raise RouterError(f"{where}: labels must hold at least two domains beside {manifest.rejected}")
    for key, numbers in (("thresholds", manifest.policy.thresholds), ("mentions", manifest.policy.mentions)):
        if set(numbers) != set(manifest.domains):
            raise RouterError(f"{where}: policy.{key} must name exactly {', '.join(manifest.domains)}")
        if not all(isinstance(number, int | float) and 0 <= number <= 1 for number in numbers.values()):
            raise RouterError(f"{where}: policy.{key} must lie between 0 and 1")
    if not 0 < manifest.policy.temperature < math.inf:
        raise RouterError(f"{where}: policy.temperature must be above 0")
    if not manifest.smoke:
        raise RouterError(f"{where}: smoke must hold at least one (text, domain) pair")
    for name in (*FILES, *([STATISTICS] if STATISTICS in manifest.files else [])):
        if not (directory / name).is_file():
            raise RouterError(f"{directory} lacks {name}")
        if _sha256(directory / name) != manifest.files.get(name):
            raise RouterError(f"{directory / name} is not the file that the manifest was written for")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
