"""The way of a version from published to ready: validated on disk, loaded, verified on the engines.

Level-triggered like reconciliation: the phase is in the shared state, so whichever gateway holds the claim takes a
version on from where it is; a killed gateway's work is done again by the next.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from adapters.quality import EXAM, Result, exam_of, read_exam
from adapters.state import RISING, Phase, State, StateError, move
from adapters.store import StoreError
from adapters.validation import AdapterError, MissingBase, validate
from server.adapter_metrics import AdapterMetrics
from server.desired import Desired
from server.engine import Engine
from server.errors import EngineUnavailable
from server.reconciliation import Reconciliation
from server.verification import VerificationFailed, examine, verify

log = logging.getLogger("zephyra.adapters")

# Between two looks at whether the engines have loaded it, and before what failed for want of an engine is tried again.
WAIT_SECONDS = 0.02
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What adapters must fit. `base`: the base's directory or Hugging Face id.

    `exam_share` of a version's exam must be passed, of which at most `exam_questions` are asked.
    """

    base: str
    max_rank: int
    max_bytes: int
    exam_share: float
    exam_questions: int


def check_files(directory: Path, limits: Limits) -> None:
    """Everything that can be known without an engine. Raises `AdapterError`."""
    size = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    if size > limits.max_bytes:
        raise AdapterError(f"the files have {size} bytes, above the limit of {limits.max_bytes}: raise store.max_bytes")
    exam_of(directory)
    try:
        validate(directory, limits.base, limits.max_rank)
    except MissingBase:
        # The engine's machine has the base, this one need not; verification finds a misfit.
        validate(directory, None, limits.max_rank)


@dataclass(slots=True)
class Rollouts:
    """Moves every rising version on, each in a task of its own."""

    desired: Desired
    reconciliation: Reconciliation
    limits: Limits
    interval: float
    figures: AdapterMetrics = field(default_factory=AdapterMetrics)
    _tasks: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        try:
            while True:
                self._wake.clear()
                for name, adapter in self.desired.state.adapters.items():
                    for digest, version in adapter.versions.items():
                        if version.phase in RISING and not version.removing and (name, digest) not in self._tasks:
                            task = asyncio.create_task(self._drive(name, digest), name=f"rollout-{name}@{digest}")
                            self._tasks[name, digest] = task
                            task.add_done_callback(lambda _, key=(name, digest): self._tasks.pop(key))  # type: ignore[misc]
                try:
                    await asyncio.wait_for(self._wake.wait(), self.interval)
                except TimeoutError:
                    continue
        finally:
            for task in list(self._tasks.values()):
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _drive(self, name: str, digest: str) -> None:
        with self.desired.store.claim(name, digest) as claimed:
            if not claimed:
                await asyncio.sleep(RETRY_SECONDS)
                return
            self.desired.refresh()
            try:
                while self._rising(name, digest):
                    await self._step(name, digest)
            except (AdapterError, VerificationFailed) as error:
                log.error("%s@%s: %s", name, digest, error)
                await self._fail(name, digest, str(error))
            except (EngineUnavailable, StoreError, OSError) as error:
                log.warning("%s@%s: %s; it is tried again", name, digest, error)
                await asyncio.sleep(RETRY_SECONDS)
            except StateError:
                # Removed meanwhile: nothing is left to do.
                return
            except Exception as error:
                # Files that crash the checks must not be tried for ever.
                log.exception("%s@%s could not be checked", name, digest)
                await self._fail(name, digest, f"could not be checked: {error!r}")

    async def _step(self, name: str, digest: str) -> None:
        steps: dict[Phase, Callable[[str, str], Awaitable[None]]] = {
            Phase.PUBLISHED: self._begin,
            Phase.VALIDATING: self._validate,
            Phase.LOADING: self._load,
            Phase.VERIFYING: self._verify,
        }
        await steps[self.desired.state.version(name, digest).phase](name, digest)

    async def _begin(self, name: str, digest: str) -> None:
        await self._move(name, digest, Phase.VALIDATING)

    async def _validate(self, name: str, digest: str) -> None:
        await asyncio.to_thread(check_files, self.desired.store.path(name, digest), self.limits)
        self.reconciliation.forgive(f"{name}@{digest}")
        await self._move(name, digest, Phase.LOADING)

    async def _load(self, name: str, digest: str) -> None:
        engine_name = f"{name}@{digest}"
        while not self.reconciliation.everywhere(engine_name):
            reason = self.reconciliation.refusal(engine_name)
            if reason is not None:
                raise VerificationFailed(f"the engine refused to load it: {reason}")
            if not self._rising(name, digest):
                return
            await asyncio.sleep(WAIT_SECONDS)
        await self._move(name, digest, Phase.VERIFYING)

    async def _verify(self, name: str, digest: str) -> None:
        engine_name = f"{name}@{digest}"
        ready = [engine for engine in self.reconciliation.engines if engine.ready and engine_name in engine.loaded]
        if not ready:
            raise EngineUnavailable("no engine has it any more")
        difference = min([await self._prove(engine, engine_name) for engine in ready])
        reason = f"differs from the base by {difference:.3g} in the first token's log-probability"
        exam = self.desired.store.path(name, digest) / EXAM
        if exam.exists():
            reason += f"; passed {await self._examine(ready[0], engine_name, exam)}"
        await self._move(name, digest, Phase.READY, reason)

    async def _examine(self, engine: Engine, engine_name: str, exam: Path) -> Result:
        items = read_exam(exam)[: self.limits.exam_questions]
        result = await examine(engine, engine_name, items)
        if result.share < self.limits.exam_share:
            raise VerificationFailed(f"it passed {result}, fewer than store.exam_share = {self.limits.exam_share}")
        return result

    async def _prove(self, engine: Engine, engine_name: str) -> float:
        """The difference from the base on one engine; only what fails twice has failed."""
        try:
            return await verify(engine, engine_name, self._base_name(engine))
        except VerificationFailed as error:
            log.warning("%s: %s: %s; it is verified once more", engine.url, engine_name, error)
        await asyncio.sleep(RETRY_SECONDS)
        if engine_name not in engine.loaded:
            raise EngineUnavailable("the engine lost it while it was verified")
        return await verify(engine, engine_name, self._base_name(engine))

    def _base_name(self, engine: Engine) -> str:
        zero = self.reconciliation.table().zero
        if zero is None:
            return engine.base_name
        if zero.engine_name not in engine.loaded:
            raise EngineUnavailable("the zero adapter is not loaded yet")
        return zero.engine_name

    def _rising(self, name: str, digest: str) -> bool:
        adapter = self.desired.state.adapters.get(name)
        version = adapter.versions.get(digest) if adapter else None
        return version is not None and version.phase in RISING and not version.removing

    async def _fail(self, name: str, digest: str, reason: str) -> None:
        self.figures.failed(name, self.desired.state.version(name, digest).phase)
        await self._move(name, digest, Phase.FAILED, reason)

    async def _move(self, name: str, digest: str, phase: Phase, reason: str = "") -> None:
        def moved(state: State) -> State:
            # A removal that came meanwhile stands.
            if state.version(name, digest).removing:
                return state
            return move(state, name, digest, phase, time.time(), reason)

        await self.desired.change(moved)
