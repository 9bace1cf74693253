"""Refuse an adapter that an engine could not serve, before the engine is asked. No torch here: serving imports this.

    AdapterError                    code
    |- UnsafeName                   unsafe_name
    |- MissingFile                  missing_file
    |- UnsafeFormat                 unsafe_format       .bin or .pt instead of safetensors
    |- BrokenFile                   broken_file         truncated or not what its name says
    |- UnsupportedAdapter           unsupported         DoRA, bias, modules_to_save, other kinds of adapters
    |- BadRank                      bad_rank
    |- NoTarget                     no_target           would silently equal the base
    |- WrongShape                   wrong_shape         made for another base
    |- BadWeights                   bad_weights         NaN, infinite, or B all zero
    |- MissingBase                  missing_base

vLLM answers 500 to most of these, and serves the base without a word for some (shared rules: rank at most
`--max-lora-rank`, no DoRA, no bias, no modules_to_save, safetensors only).
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
RESERVED = frozenset({"text", "image", "audio", "video", "input", "base"})
RESERVED_PREFIX = "zephyra"
TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>A|B)\.weight")
MAX_RANK = 512
PLAIN_INITS = frozenset({"true", "false", "gaussian", "orthogonal", "eva"})


class AdapterError(ValueError):
    """An adapter that cannot be served. `code` is stable; the message says what to do."""

    code = "bad_adapter"


class UnsafeName(AdapterError):
    code = "unsafe_name"


class MissingFile(AdapterError):
    code = "missing_file"


class UnsafeFormat(AdapterError):
    code = "unsafe_format"


class BrokenFile(AdapterError):
    code = "broken_file"


class UnsupportedAdapter(AdapterError):
    code = "unsupported"


class BadRank(AdapterError):
    code = "bad_rank"


class NoTarget(AdapterError):
    code = "no_target"


class WrongShape(AdapterError):
    code = "wrong_shape"


class BadWeights(AdapterError):
    code = "bad_weights"


class MissingBase(AdapterError):
    code = "missing_base"


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What validation read: the largest rank, the adapted modules' names, the size of the weights in bytes."""

    rank: int
    modules: tuple[str, ...]
    bytes: int


def check_name(name: str) -> str:
    """`name` if it is safe as an adapter's public name. Raises `UnsafeName`."""
    if not NAME.fullmatch(name):
        raise UnsafeName(
            f"adapter name {name!r}: use a to z, 0 to 9, _ and -, beginning with a letter or digit, at most 63"
        )
    if name in RESERVED or name.startswith(RESERVED_PREFIX):
        raise UnsafeName(f"adapter name {name!r} is reserved: choose another")
    return name


def validate(
    directory: Path, base: str | None = None, max_rank: int = MAX_RANK, allow_zero: bool = False
) -> AdapterFacts:
    """Check the adapter in `directory`, against `base` (a directory or a downloaded Hugging Face id) if given.

    Raises an `AdapterError`. `allow_zero` is for the zero adapter, whose B is meant to be zero.
    """
    config = _config(directory)
    _supported(config)
    rank = _rank(config, max_rank)
    modules = {} if base is None else base_modules(base)
    seen = _tensors(directory, config, rank, modules, allow_zero)
    return AdapterFacts(rank, tuple(sorted(seen)), (directory / WEIGHTS).stat().st_size)


def _config(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise MissingFile(f"{directory} is not a directory: give the folder that holds {CONFIG} and {WEIGHTS}")
    if not (directory / WEIGHTS).is_file():
        unsafe = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if unsafe:
            raise UnsafeFormat(f"{unsafe[0]} is a pickle, which can run code: save the adapter as {WEIGHTS}")
        raise MissingFile(f"{WEIGHTS} is missing in {directory}")
    if not (directory / CONFIG).is_file():
        raise MissingFile(f"{CONFIG} is missing in {directory}")
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{CONFIG} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise BrokenFile(f"{CONFIG} must hold a JSON object")
    return config


def _supported(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UnsupportedAdapter(f"peft_type is {config.get('peft_type')!r}: only LORA adapters are served")
    if config.get("use_dora"):
        raise UnsupportedAdapter("this is a DoRA adapter, which vLLM does not serve: train it again with plain LoRA")
    if config.get("alora_invocation_tokens"):
        raise UnsupportedAdapter("this is an aLoRA adapter, which is not served: train it again with plain LoRA")
    if config.get("bias", "none") != "none":
        raise UnsupportedAdapter(f'bias is {config["bias"]!r}: train again with bias "none"')
    for key in ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication"):
        if config.get(key):
            raise UnsupportedAdapter(f"{key} is set, which is not served: train again without it")
    init = str(config.get("init_lora_weights", True)).lower()
    if init not in PLAIN_INITS:
        raise UnsupportedAdapter(
            f"init_lora_weights is {init!r}, which changes the base: convert it to a plain LoRA first"
        )


def _rank(config: dict[str, Any], max_rank: int) -> int:
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])]
    for rank in ranks:
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise BadRank(f"r is {rank!r} in {CONFIG}: it must be a whole number of at least 1")
        if rank > max_rank:
            raise BadRank(f"rank {rank} is above the engine's {max_rank}: raise max_lora_rank or train with less")
    if not config.get("target_modules"):
        raise NoTarget(f"target_modules is empty in {CONFIG}: the adapter would change nothing")
    return int(max(ranks))


def _tensors(
    directory: Path, config: dict[str, Any], rank: int, modules: dict[str, tuple[int, ...]], allow_zero: bool
) -> set[str]:
    """Go through the weights; returns the adapted modules."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    alive = False
    for key, array in _read(directory / WEIGHTS):
        match = TENSOR.fullmatch(key)
        if not match:
            raise UnsupportedAdapter(f"tensor {key} belongs to no plain LoRA on a linear layer")
        if array.ndim != 2:
            raise WrongShape(f"{key} has {array.ndim} dimensions instead of 2")
        if not np.isfinite(array).all():
            raise BadWeights(f"{key} holds NaN or infinity: the training diverged")
        alive = alive or (match["side"] == "B" and bool(array.any()))
        sides.setdefault(match["module"], {})[match["side"]] = array.shape
    if not sides:
        raise NoTarget(f"{WEIGHTS} holds no LoRA tensor: the adapter would change nothing")
    for module, shapes in sides.items():
        _shapes(module, shapes, rank, bool(config.get("rank_pattern")), modules)
    if not alive and not allow_zero:
        raise BadWeights("every lora_B is zero: the adapter was never trained and equals the base")
    return set(sides)


def _shapes(
    module: str, shapes: dict[str, tuple[int, ...]], rank: int, varies: bool, modules: dict[str, tuple[int, ...]]
) -> None:
    if set(shapes) != {"A", "B"}:
        raise BrokenFile(f"{module} has lora_{next(iter(shapes))} alone: A and B belong together")
    (inner, columns), (rows, other) = shapes["A"], shapes["B"]
    if inner != other or inner > rank or (inner != rank and not varies):
        raise WrongShape(f"{module}: A is {shapes['A']} and B is {shapes['B']}, {CONFIG} says rank {rank}")
    if modules:
        if module not in modules:
            raise NoTarget(f"{module} is no layer of this base: the adapter was made for another one")
        if modules[module] != (rows, columns):
            raise WrongShape(f"{module} is {modules[module]} in this base, the adapter is for {(rows, columns)}")


def _read(path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Name and values of each tensor, bf16 widened to float32, which numpy lacks."""
    try:
        with safe_open(path, framework="np") as opened:
            for key in opened.keys():  # noqa: SIM118
                if opened.get_slice(key).get_dtype() == "BF16":
                    yield key, _bfloat16(path, key)
                else:
                    yield key, opened.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, AdapterError):
            raise
        raise BrokenFile(f"{path.name} is truncated or no safetensors file: {error}") from None


def header(path: Path) -> dict[str, Any]:
    """A safetensors file's header, its metadata left out, each entry with `dtype`, `shape`, `data_offsets`."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries: dict[str, Any] = json.loads(file.read(size))
    entries.pop("__metadata__", None)
    return entries


def _bfloat16(path: Path, key: str) -> np.ndarray[Any, Any]:
    entry = header(path)[key]
    begin, end = entry["data_offsets"]
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        file.seek(8 + size + begin)
        half = np.frombuffer(file.read(end - begin), dtype="<u2")
    return (half.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def base_directory(base: str) -> Path:
    """Where a base's files are: itself, or its snapshot in the Hugging Face cache. Raises `MissingBase`."""
    if (Path(base) / "config.json").is_file():
        return Path(base)
    if not Path(base).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(base, "config.json")
        if isinstance(found, str):
            return Path(found).parent
    raise MissingBase(f"the base {base} is not here: give a directory with config.json, or download the model first")


def base_modules(base: str) -> dict[str, tuple[int, ...]]:
    """Each linear weight of the base: module name -> (out, in)."""
    directory = base_directory(base)
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        raise MissingBase(f"{directory} has no safetensors weights to check the adapter against")
    return {
        key.removesuffix(".weight"): tuple(entry["shape"])
        for shard in shards
        for key, entry in header(shard).items()
        if key.endswith(".weight") and len(entry["shape"]) == 2
    }


def base_digest(base: str) -> str:
    """16 hex digits of SHA-256 over the base's configuration and weights."""
    directory = base_directory(base)
    total = hashlib.sha256()
    for path in [directory / "config.json", *sorted(directory.glob("*.safetensors"))]:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
