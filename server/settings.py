"""Configuration: one frozen, validated value, built once from a TOML file and the command line.

Every section forbids unknown keys; `load` turns pydantic's findings into a `SettingsError` that names the key and
what is allowed there.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

BUNDLE = Path(__file__).resolve().parent.parent / "adapters" / "bundle"

AdapterName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

# Those vLLM knows; as a text too, where it comes from the environment.
LoraRank = Annotated[
    Literal[1, 8, 16, 32, 64, 128, 256, 320, 512],
    BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdecimal() else value),
]

# How many engines keep an adapter: a number, or "all", which is None.
Copies = Annotated[int | None, Field(ge=1), BeforeValidator(lambda value: None if value == "all" else value)]

# Words the gateway uses itself, and the modality names under which vLLM applies an adapter unasked.
RESERVED_NAMES = frozenset({"text", "image", "audio", "video", "input", "zero", "general", "base"})


LOG_FORMAT = "%(asctime)s %(name)s: %(message)s"
# Where the key of /admin is taken from when the file has none.
ADMIN_KEY_VARIABLE = "ZEPHYRA_ADMIN_KEY"
# The file's keys as environment variables, for containers: ZEPHYRA__ENGINE__MAX_LORAS=9 is engine.max_loras.
ENVIRONMENT_PREFIX = "ZEPHYRA__"
ENGINE_SCHEMES = ("http://", "https://", "unix:/")
# Sources of engines: each address of a name, each line of a file.
DNS_SCHEME = "dns+http://"
FILE_SCHEME = "file:"


class SettingsError(ValueError):
    """The configuration cannot be used; the message names the key and what it may be."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewaySettings(Section):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    # Processes behind the one address; they share the store and the engines.
    workers: int = Field(1, ge=1, le=64)
    max_body_bytes: int = Field(8 * 2**20, ge=1024)
    # How long running answers may go on after a stop was asked for, in seconds.
    shutdown_grace: float = Field(20.0, ge=0)


class AccessSettings(Section):
    # A file written by `zephyra keys create`; without one, and without ZEPHYRA_API_KEYS, anyone on this machine.
    keys_file: Path | None = None
    # Serve anyone who can reach the address, without a key.
    allow_anonymous: bool = False


class LimitSettings(Section):
    # Requests that one engine is given at a time, and those that wait for a place.
    max_running: int = Field(256, ge=1)
    max_waiting: int = Field(256, ge=0)
    # Longest wait for a place, in seconds; who would wait longer is refused at once.
    max_wait: float = Field(10.0, gt=0)
    # A body that takes longer to arrive is given up, in seconds.
    body_seconds: float = Field(60.0, gt=0)


class DecisionLogSettings(Section):
    # JSON lines, one for each of TinyAda's decisions; none without a path.
    path: Path | None = None
    # Write the user's turns as they are, which `zephyra router replay` needs, not their hash only.
    prompts: bool = False
    max_bytes: int = Field(64 * 2**20, ge=4096)
    keep: int = Field(4, ge=1)


class ConsoleSettings(Section):
    # Show administrators the user's words in the console's live view.
    prompts: bool = False


class ModelNames(Section):
    base: AdapterName = "zephyra"
    resolve: AdapterName = "zephyra-resolve"


class BaseModelSettings(Section):
    # A directory or a Hugging Face id.
    model: str = str(BUNDLE / "base")


class AdapterSettings(Section):
    path: Path
    domain: str | None = None


class RouterSettings(Section):
    # Directory of TinyAda's weights; the shipped ones when absent.
    path: Path | None = None
    # Share of routed requests that skip TinyAda and get the base, so that its worth can be measured.
    bypass_share: float = Field(0.0, ge=0, le=1)
    # Another TinyAda that decides too, after the answer, for comparison only; and the share of requests it gets.
    shadow: Path | None = None
    shadow_share: float = Field(1.0, gt=0, le=1)


class StoreSettings(Section):
    # Directory of the adapter store; without one, what is published lives as long as the gateway.
    path: Path | None = None
    # Directories from which adapters may be published; any when empty.
    sources: tuple[Path, ...] = ()
    # How many retired or failed versions of an adapter are kept; the oldest beyond that are deleted.
    keep: int = Field(10, ge=1)
    # The most bytes one version may have.
    max_bytes: int = Field(4 * 2**30, ge=1)
    # The share of its exam that a version must pass, where its manifest names one, over at most so many questions.
    exam_share: float = Field(0.5, ge=0, le=1)
    exam_questions: int = Field(8, ge=1)


class CanarySettings(Section):
    """When the lighter versions of a weighted route are taken out by themselves."""

    # Share of failed requests, 0 to 1.
    max_error_rate: float = Field(0.1, ge=0, le=1)
    # Requests a version must have answered before its rate counts.
    min_requests: int = Field(20, ge=1)


class AdminSettings(Section):
    # Bearer key of /admin; without one, only clients on the loopback interface are served there.
    key: str | None = Field(None, min_length=8)


class EngineSettings(Section):
    # Engines that already run, as http://host:port or unix:/path, and sources of such, which are looked up again and
    # again: dns+http://name:port (each address of the name), file:/path (each line). When empty, one is started and
    # supervised.
    urls: tuple[str, ...] = ()
    api_key: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_loras: int | None = Field(None, ge=1)
    # How many adapters an engine keeps in memory (vLLM's --max-cpu-loras); unknown for engines that already run.
    max_cpu_loras: int | None = Field(None, ge=2)
    max_lora_rank: LoraRank | None = None
    max_model_len: int | None = Field(None, ge=64)
    # CPU engines only; vLLM's own default would take 0.92 of the machine's memory.
    kv_cache_memory_bytes: int = Field(512 * 2**20, ge=2**20)
    args: tuple[str, ...] = ()
    # On how many of the engines each adapter is kept; the same for every gateway on a store.
    copies: Copies = None
    # Seconds between two looks at an engine's health and adapters.
    poll_interval: float = Field(1.0, gt=0)
    # Seconds between two look-ups of the sources in urls.
    resolve_interval: float = Field(5.0, gt=0)
    start_timeout: float = Field(900.0, gt=0)
    # Restart delays: doubling from the first to the second, in seconds.
    backoff: tuple[float, float] = (1.0, 30.0)

    @model_validator(mode="after")
    def _check_urls(self) -> Self:
        for url in self.urls:
            if not url.startswith((*ENGINE_SCHEMES, DNS_SCHEME, FILE_SCHEME)):
                allowed = ", ".join((*ENGINE_SCHEMES, DNS_SCHEME))
                raise ValueError(f"engine.urls: {url!r} must begin with {allowed} or {FILE_SCHEME}")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """Those of `urls` that name engines instead of being one."""
        return tuple(url for url in self.urls if url.startswith((DNS_SCHEME, FILE_SCHEME)))


class Settings(Section):
    """All of it. `adapters` maps a public name to its files and the domain it serves."""

    gateway: GatewaySettings = GatewaySettings()
    names: ModelNames = ModelNames()
    base: BaseModelSettings = BaseModelSettings()
    adapters: dict[AdapterName, AdapterSettings] = Field(default_factory=dict)
    router: RouterSettings = RouterSettings()
    engine: EngineSettings = EngineSettings()
    store: StoreSettings = StoreSettings()
    canary: CanarySettings = CanarySettings()
    admin: AdminSettings = AdminSettings()
    access: AccessSettings = AccessSettings()
    limits: LimitSettings = LimitSettings()
    decisions: DecisionLogSettings = DecisionLogSettings()
    console: ConsoleSettings = ConsoleSettings()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        taken = RESERVED_NAMES | {self.names.base, self.names.resolve}
        domains: dict[str, str] = {}
        for name, adapter in self.adapters.items():
            if name in taken:
                raise ValueError(f"adapters.{name}: the name is reserved; choose another")
            if adapter.domain is None:
                continue
            if adapter.domain == "general":
                raise ValueError(f"adapters.{name}.domain: 'general' is answered by the base, not by an adapter")
            if adapter.domain in domains:
                other = domains[adapter.domain]
                raise ValueError(f"adapters.{name}.domain: {adapter.domain!r} is already served by {other!r}")
            domains[adapter.domain] = name
        return self


def shipped_adapters(bundle: Path = BUNDLE) -> dict[str, AdapterSettings]:
    """The bundle's adapters by name, the zero adapter left out."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    return {
        name: AdapterSettings(path=bundle / entry["path"], domain=entry["domain"])
        for name, entry in manifest["adapters"].items()
        if entry["domain"] is not None
    }


def load(path: Path | None = None, overrides: dict[str, dict[str, Any]] | None = None) -> Settings:
    """Settings from a TOML file, then `ZEPHYRA__SECTION__KEY` of the environment, then `overrides` (section -> key ->
    value).

    Without a file, and without a base of its own, the shipped base and adapters are served. Relative paths in the
    file are taken from the file's directory. Raises `SettingsError`.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text())
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not valid TOML: {error}") from error
        _resolve_paths(raw, path.resolve().parent)
    for layer in (_environment_keys(os.environ), overrides or {}):
        for section, values in layer.items():
            part = raw.setdefault(section, {})
            if isinstance(part, dict):
                part.update(values)
    key = os.environ.get(ADMIN_KEY_VARIABLE)
    if key and isinstance(admin := raw.setdefault("admin", {}), dict):
        admin.setdefault("key", key)
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error
    if "adapters" not in raw and "model" not in raw.get("base", {}):
        settings = settings.model_copy(update={"adapters": shipped_adapters()})
    return settings


def _environment_keys(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Section -> key -> value of the environment; pydantic makes numbers of texts. Empty ones count as absent."""
    found: dict[str, dict[str, Any]] = {}
    for variable, text in environment.items():
        section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and text:
            try:
                found.setdefault(section, {})[key] = json.loads(text) if text.startswith("[") else text
            except ValueError as error:
                raise SettingsError(f'{variable}: a list must be JSON, as ["one", "two"]: {error}') from None
    return found


def _resolve_paths(raw: dict[str, Any], directory: Path) -> None:
    """Make the file's relative paths absolute; a base that is no local directory stays a Hugging Face id."""

    def absolute(section: Any, key: str) -> None:
        if isinstance(section, dict) and isinstance(section.get(key), str):
            candidate = (directory / section[key]).resolve()
            if key != "model" or candidate.is_dir():
                section[key] = str(candidate)

    absolute(raw.get("base"), "model")
    absolute(raw.get("router"), "path")
    absolute(raw.get("router"), "shadow")
    absolute(raw.get("store"), "path")
    absolute(raw.get("decisions"), "path")
    absolute(raw.get("access"), "keys_file")
    adapters = raw.get("adapters")
    for adapter in adapters.values() if isinstance(adapters, dict) else ():
        absolute(adapter, "path")


def _explain(error: ValidationError) -> str:
    lines = []
    for finding in error.errors(include_url=False):
        key = ".".join(str(part) for part in finding["loc"])
        message = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            message = f"unknown key; allowed here: {', '.join(_allowed_keys(finding['loc']))}"
        lines.append(f"{key}: {message}" if key else message)
    return "; ".join(lines)


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        if model is Settings and part == "adapters":
            return list(AdapterSettings.model_fields)
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
