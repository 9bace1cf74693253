"""What lives as long as the gateway: TinyAda, the route table, the engines, and the tasks that keep them well."""

import asyncio
import contextlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from adapters.version import Version, read_version
from adapters.zero import write_zero_adapter
from router import RouterError, TinyAda
from server.engine import Engine
from server.metrics import Metrics
from server.reconciliation import Reconciliation
from server.routing import Classifier
from server.settings import Settings, SettingsError
from server.supervisor import Supervisor, engine_device
from server.table import RouteTable

log = logging.getLogger("zephyra")


@dataclass(slots=True)
class Gateway:
    """The state that requests read. `table` and `classifier` are replaced whole, never changed."""

    settings: Settings
    metrics: Metrics
    table: RouteTable
    classifier: Classifier
    engines: list[Engine]
    supervisor: Supervisor | None
    reconciliation: Reconciliation

    def wake(self) -> None:
        """Look at the engines now rather than at the next interval."""
        self.reconciliation.wake()

    def missing(self) -> list[str]:
        """What stands between now and being ready; empty when ready."""
        findings: list[str] = []
        if not any(engine.ready for engine in self.engines):
            findings.append("no engine is ready")
        for engine in self.engines:
            absent = [v.engine_name for v in self.table.versions if v.engine_name not in engine.loaded]
            if engine.ready and absent:
                reasons = [self.reconciliation.refusals.get((engine.url, name), "not loaded yet") for name in absent]
                listed = ", ".join(f"{name} ({why})" for name, why in zip(absent, reasons, strict=True))
                findings.append(f"{engine.url} lacks {listed}")
        return findings


@contextlib.asynccontextmanager
async def running_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway with its background tasks; leaving the context stops all it started.

    Raises `SettingsError` where an adapter, TinyAda or the base cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="zephyra-", ignore_cleanup_errors=True) as directory:
        gateway = _build(settings, Path(directory))
        tasks = [asyncio.create_task(gateway.reconciliation.run(), name="reconciliation")]
        if gateway.supervisor:
            gateway.supervisor.start(gateway.engines[0])
        try:
            yield gateway
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if gateway.supervisor:
                await gateway.supervisor.stop()
            for engine in gateway.engines:
                await engine.close()


def check(settings: Settings) -> None:
    """Raise `SettingsError` for what can be known to be unusable before anything is started."""
    classifier = load_classifier(settings)
    _check_domains(settings, classifier)
    for version in load_versions(settings):
        lora_rank(version)


def _build(settings: Settings, directory: Path) -> Gateway:
    classifier = load_classifier(settings)
    versions = load_versions(settings)
    _check_domains(settings, classifier)
    zero = None
    if engine_device(settings.engine) == "cpu":
        zero = _zero_version(settings, directory)
    table = RouteTable.of(settings.names.base, settings.names.resolve, versions, zero)
    metrics = Metrics()
    supervisor = None
    if settings.engine.urls:
        engines = [Engine.connect(url, settings.engine.api_key) for url in settings.engine.urls]
    else:
        rank = max((lora_rank(version) for version in table.versions), default=8)
        supervisor = Supervisor(
            settings.engine, settings.base.model, len(table.versions), rank, lambda: gateway.wake(), directory
        )
        engines = [Engine.connect(supervisor.url)]
    reconciliation = Reconciliation(
        engines, lambda: gateway.table, settings.engine.poll_interval, supervisor is not None
    )
    for engine in engines:
        metrics.watch_engine(engine)
    metrics.adapters_desired.set_function(lambda: len(gateway.table.versions))
    gateway = Gateway(settings, metrics, table, classifier, engines, supervisor, reconciliation)
    return gateway


def load_classifier(settings: Settings) -> TinyAda:
    """TinyAda as configured. Raises `SettingsError`."""
    try:
        return TinyAda.load(settings.router.path)
    except RouterError as error:
        raise SettingsError(f"router.path: {error}") from error


def load_versions(settings: Settings) -> list[Version]:
    """The configured adapters' versions. Raises `SettingsError` naming the adapter."""
    versions = []
    for name, adapter in settings.adapters.items():
        try:
            versions.append(read_version(name, adapter.path, adapter.domain))
        except OSError as error:
            problem = f"{adapter.path} must hold adapter_config.json and adapter_model.safetensors"
            raise SettingsError(f"adapters.{name}.path: {problem} ({error.strerror})") from error
    return versions


def lora_rank(version: Version) -> int:
    """The rank its configuration states. Raises `SettingsError`."""
    try:
        return int(json.loads((version.path / "adapter_config.json").read_text())["r"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"adapters.{version.name}.path: adapter_config.json states no rank 'r'") from error


def _check_domains(settings: Settings, classifier: TinyAda) -> None:
    for name, adapter in settings.adapters.items():
        if adapter.domain is not None and adapter.domain not in classifier.domains:
            known = ", ".join(classifier.domains)
            raise SettingsError(f"adapters.{name}.domain: TinyAda knows no {adapter.domain!r}; it knows {known}")


def _zero_version(settings: Settings, directory: Path) -> Version:
    try:
        return read_version("zero", write_zero_adapter(settings.base.model, directory / "zero"))
    except (OSError, KeyError, ValueError) as error:
        raise SettingsError(f"base.model: no usable config.json for {settings.base.model!r}: {error}") from error
