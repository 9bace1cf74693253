"""API keys at rest: a JSON file of entries that hold each key's SHA-256 and what it may do, never the key.

A key is 256 random bits, so a plain SHA-256 cannot be searched backwards.
"""

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from server.settings import Section, SettingsError

# Comma-separated keys in plain text, each for everything; for containers that get secrets in their environment.
VARIABLE = "ZEPHYRA_API_KEYS"
PREFIX = "zk_"
SHORTEST = 16


class Key(Section):
    """A key and its limits; None is without limit. `models` are the public names it may use: others do not exist."""

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    models: frozenset[str] | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    max_concurrent: int | None = Field(None, ge=1)
    max_body_bytes: int | None = Field(None, ge=1)
    max_prompt_bytes: int | None = Field(None, ge=1)
    max_output_tokens: int | None = Field(None, ge=1)
    # May skip TinyAda with the header x-zephyra-bypass.
    may_bypass: bool = False
    # May read /metrics and what /ready is waiting for, which name every adapter.
    may_observe: bool = False
    disabled: bool = False


class KeyFile(Section):
    keys: tuple[Key, ...] = ()


def digest(key: str) -> str:
    """The SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A fresh key: `zk_` and 43 characters of URL-safe base64."""
    return PREFIX + secrets.token_urlsafe(32)


def read_keys(path: Path) -> list[Key]:
    """The entries of a key file. Raises `SettingsError` that names the file and the entry."""
    try:
        return list(KeyFile.model_validate(json.loads(path.read_text())).keys)
    except OSError as error:
        raise SettingsError(f"access.keys_file: cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        finding = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in finding["loc"])
        raise SettingsError(f"access.keys_file: {path}: {where}: {finding['msg']}") from None
    except ValueError as error:
        raise SettingsError(f"access.keys_file: {path} is not valid JSON: {error}") from None


def write_keys(path: Path, keys: Iterable[Key]) -> None:
    """Replace a key file whole, readable by its owner only."""
    text = KeyFile(keys=tuple(keys)).model_dump_json(indent=2, exclude_defaults=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def environment_keys(environment: Mapping[str, str]) -> list[Key]:
    """The keys of `ZEPHYRA_API_KEYS`. Raises `SettingsError`, without showing a key, where one is too short."""
    keys = []
    for index, plain in enumerate(filter(None, (part.strip() for part in environment.get(VARIABLE, "").split(",")))):
        if len(plain) < SHORTEST:
            raise SettingsError(f"{VARIABLE}: key {index + 1} has fewer than {SHORTEST} characters; use a longer one")
        name = f"environment-{index + 1}"
        keys.append(Key(name=name, sha256=digest(plain), may_bypass=True, may_observe=True))
    return keys
