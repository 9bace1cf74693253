"""Immutable versions of adapters: what an engine is asked to load.

An engine caches by name and path, never by content, so a version's engine-side name carries the digest of its files.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FILES = ("adapter_config.json", "adapter_model.safetensors")
DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True)
class Version:
    """One adapter's files under one name. `path` is absolute; `digest` is 12 hex digits of SHA-256."""

    name: str
    digest: str
    path: Path
    domain: str | None = None

    @property
    def engine_name(self) -> str:
        """The name an engine knows it by, e.g. `medical@3f2a9c01d7e4`."""
        return f"{self.name}@{self.digest}"


def digest(directory: Path) -> str:
    """The digest of the two files that engines read. Raises `FileNotFoundError` when one is missing."""
    total = hashlib.sha256()
    for name in FILES:
        with (directory / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:DIGEST_LENGTH]


def read_version(name: str, directory: Path, domain: str | None = None) -> Version:
    """The version that the files in `directory` are, under `name`. Raises `FileNotFoundError`."""
    directory = directory.resolve()
    return Version(name, digest(directory), directory, domain)
