"""The store of versions: a directory that any number of gateways may share.

    state.json                  the desired state, replaced atomically
    versions/NAME@DIGEST/       one version's files; manifest.json is written last, and the directory appears by rename;
                                exam.jsonl, which no engine reads, may be replaced when it is published again
    gateways/ID.json            what each running gateway uses and its engines hold; stale once its time is old
    lock, claims/               advisory locks (flock), released by the system when their holder dies

A process killed at any instant leaves a store that loads: with the old state or the new one, and with whole versions.
On NFS, mount it with `actimeo=0,lookupcache=none`, or changes are seen late; locks need NFSv4.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from adapters.quality import EXAM, exam_of
from adapters.state import FORMAT, NAME, VERSION, State
from adapters.validation import AdapterError
from adapters.version import FILES, Version, digest

# A gateway not heard of for so long, in seconds, holds nothing any more.
STALE_SECONDS = 30.0
# Left-overs of a killed process are swept once they are so old, in seconds.
LEFTOVER_SECONDS = 3600.0
MANIFEST = "manifest.json"
# The stamp of a store without a state file.
NO_STATE = (0, 0, 0)
# The zero adapter's name: kept here for its lasting path, and never part of the state.
ZERO = "zero"


class StoreError(Exception):
    """The store, or what should go into it, cannot be used; the message says why."""


class GatewayUse(msgspec.Struct, frozen=True):
    """What one gateway reports: engine-side names it may send requests to, and those its engines hold.

    `on` has the names it may send to each engine, by URL.
    """

    at: float
    uses: frozenset[str] = frozenset()
    holds: frozenset[str] = frozenset()
    on: dict[str, frozenset[str]] = {}


@dataclass(frozen=True, slots=True)
class Store:
    """A store at `root`. Reading never blocks; `change` and `publish` take the writers' lock for a moment."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> "Store":
        """Make the directory usable and sweep old left-overs. Raises `StoreError`."""
        store = cls(root.resolve())
        try:
            for directory in (store._versions, store.root / "gateways", store.root / "claims"):
                directory.mkdir(parents=True, exist_ok=True)
            store.sweep()
        except OSError as error:
            raise StoreError(f"{store.root} cannot be written: {error.strerror}") from error
        store.read()
        return store

    @property
    def _versions(self) -> Path:
        return self.root / "versions"

    @property
    def _state(self) -> Path:
        return self.root / "state.json"

    def path(self, name: str, digest: str) -> Path:
        """Where a version's files are. Raises `StoreError` for names that could lead elsewhere."""
        if not NAME.fullmatch(name) or not VERSION.fullmatch(digest):
            raise StoreError(f"{name[:80]!r}@{digest[:80]!r} names no version; names are [a-z0-9][a-z0-9_-]*.")
        return self._versions / f"{name}@{digest}"

    def version(self, name: str, digest: str, domain: str | None = None) -> Version:
        """What engines are asked to load."""
        return Version(name, digest, self.path(name, digest), domain)

    def holds(self, name: str, digest: str) -> bool:
        """Whether the whole version is here."""
        return (self.path(name, digest) / MANIFEST).is_file()

    def read(self) -> State:
        """The desired state now. Raises `StoreError` where the file is not one of ours."""
        try:
            state = msgspec.json.decode(self._state.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(f"{self._state} cannot be read: {error}") from error
        if state.format != FORMAT:
            raise StoreError(f"{self._state} has format {state.format}; this version of Zephyra reads {FORMAT}.")
        return state

    def stamp(self) -> tuple[int, int, int]:
        """Differs whenever the state was replaced."""
        try:
            found = self._state.stat()
        except FileNotFoundError:
            return NO_STATE
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def change(self, function: Callable[[State], State]) -> State:
        """Replace the state by what `function` makes of it, and return that. Raises `StoreError`, `StateError`."""
        with self._locked():
            before = self.read()
            after = function(before)
            if after == before:
                return before
            after = msgspec.structs.replace(after, revision=before.revision + 1)
            text = msgspec.json.format(msgspec.json.encode(after), indent=1)
            replace_file(self._state, text)
            return after

    def publish(self, name: str, source: Path, follow_links: bool = False) -> str:
        """Copy a version's files in; returns its digest. The state is not changed. Raises `StoreError`.

        A version already here is left as it is: its digest says that the files are the same. Symbolic links are
        refused unless `follow_links`: they could lead to files that the source's owner may not read.
        """
        work = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self._versions))
        try:
            for file in FILES:
                _copy(source / file, work / file, follow_links)
            exam = exam_of(source)
            if exam is not None:
                _copy(exam, work / EXAM, follow_links)
            found = digest(work)
            target = self.path(name, found)
            manifest = {"name": name, "digest": found, "files": {file: (work / file).stat().st_size for file in FILES}}
            replace_file(work / MANIFEST, json.dumps(manifest, indent=1).encode())
            work.chmod(0o755)
            with self._locked():
                if self.holds(name, found):
                    # Young again, so that it is not swept before the state names it.
                    os.utime(target)
                    if exam is not None:
                        os.replace(work / EXAM, target / EXAM)
                else:
                    if target.exists():
                        self._discard(target)
                    os.rename(work, target)
                    _sync_directory(self._versions)
            return found
        except AdapterError as error:
            raise StoreError(str(error)) from error
        except OSError as error:
            raise StoreError(f"{source} cannot be copied into the store: {error.strerror}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def delete(self, name: str, digest: str) -> None:
        """Delete a version's files unless the state names them again. Only for what no engine holds."""
        path = self.path(name, digest)
        with self._locked():
            adapter = self.read().adapters.get(name)
            if path.exists() and (adapter is None or digest not in adapter.versions):
                self._discard(path)

    @contextlib.contextmanager
    def claim(self, name: str, digest: str) -> Iterator[bool]:
        """Whether this process alone moves the version on; the claim ends with the context, or with the process."""
        path = self.root / "claims" / self.path(name, digest).name
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def report(
        self, gateway: str, uses: Iterable[str], holds: Iterable[str], on: Mapping[str, frozenset[str]] | None = None
    ) -> None:
        """Say what gateway `gateway` uses now."""
        use = GatewayUse(time.time(), frozenset(uses), frozenset(holds), dict(on or {}))
        replace_file(self.root / "gateways" / f"{gateway}.json", msgspec.json.encode(use), durable=False)

    def retract(self, gateway: str) -> None:
        """The gateway has ended."""
        (self.root / "gateways" / f"{gateway}.json").unlink(missing_ok=True)

    def others(self, gateway: str) -> list[GatewayUse]:
        """What every other live gateway reports."""
        found = []
        for path in (self.root / "gateways").glob("*.json"):
            if path.stem == gateway:
                continue
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                use = msgspec.json.decode(path.read_bytes(), type=GatewayUse)
                if time.time() - use.at < STALE_SECONDS:
                    found.append(use)
        return found

    def sweep(self) -> None:
        """Delete what killed processes left: half-made copies, and versions that never came into the state."""
        # What is out of sight already may be deleted by two at once.
        for path in self._versions.glob(".trash-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in [*self._versions.glob(".incoming-*"), *self.root.glob("**/*.tmp")]:
            if path.is_dir() and _is_old(path):
                shutil.rmtree(path, ignore_errors=True)
            elif _is_old(path):
                path.unlink(missing_ok=True)
        for path in self._orphans():
            with self._locked():
                # One that is published again at this moment is young.
                if _is_old(path):
                    self._discard(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _discard(self, path: Path) -> None:
        """Out of sight first, so that a half-deleted version is never seen."""
        trash = Path(tempfile.mkdtemp(prefix=".trash-", dir=self._versions))
        os.rename(path, trash / "version")
        shutil.rmtree(trash, ignore_errors=True)

    def _orphans(self) -> list[Path]:
        adapters = self.read().adapters
        held = frozenset[str]().union(*(use.uses | use.holds for use in self.others("")))
        found = []
        for path in self._versions.glob("*@*"):
            name, _, version = path.name.partition("@")
            known = name == ZERO or (name in adapters and version in adapters[name].versions)
            if not known and path.name not in held:
                found.append(path)
        return found


def replace_file(path: Path, content: bytes, durable: bool = True) -> None:
    """Replace a file whole: readers see the old bytes or the new ones. `durable`: also after a power cut."""
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        _sync_directory(path.parent)


def _is_old(path: Path) -> bool:
    """Whether it is here, and was not touched for so long that no process can still be at it."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > LEFTOVER_SECONDS
    return False


def _copy(source: Path, target: Path, follow_links: bool) -> None:
    if source.is_symlink() and not follow_links:
        raise StoreError(f"{source} is a symbolic link, which is not followed: give the directory of the file itself.")
    if not source.is_file():
        raise StoreError(f"{source} is missing: give a directory with {' and '.join(FILES)}.")
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
