"""The TinyAdas of a store: copied in whole, checked, found again by their digest.

    routers/DIGEST/    one TinyAda's files; appears by rename and never changes

What serves is always such a copy, or the one that ships: weights are mapped into memory, so that overwriting the files
of one that serves would change, or end, the process that maps them.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapters.state import VERSION
from adapters.store import LEFTOVER_SECONDS
from router import RouterError, TinyAda
from router.manifest import MANIFEST, files_of, read_manifest

# The digest that stands for the TinyAda every gateway brings along.
SHIPPED = ""


@dataclass(frozen=True, slots=True)
class Routers:
    """A directory of TinyAdas that any number of gateways may share."""

    root: Path

    def bring(self, source: Path, follow_links: bool = False) -> TinyAda:
        """Copy a TinyAda in, and return it loaded from the copy, its smoke set passed. Raises `RouterError`.

        Symbolic links are refused unless `follow_links`: they could lead to where its owner may not read.
        """
        digest = read_manifest(source).digest
        if (self.root / digest / MANIFEST).is_file():
            # Young again, so that it is not pruned before the state names it.
            os.utime(self.root / digest)
            return self.load(digest)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.root))
            try:
                for name in (*files_of(source), MANIFEST):
                    _copy(source / name, work / name, follow_links)
                work.chmod(0o755)
                checked(work)
                with contextlib.suppress(FileExistsError):
                    # Another gateway may have been quicker: the digest says that the files are the same.
                    _rename(work, self.root / digest)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        except OSError as error:
            raise RouterError(f"{source} cannot be copied into the store: {error.strerror}") from error
        return self.load(digest)

    def load(self, digest: str) -> TinyAda:
        """A TinyAda that was brought in, or the shipped one, checked. Raises `RouterError`."""
        if digest == SHIPPED:
            return checked(None)
        if not VERSION.fullmatch(digest):
            raise RouterError(f"{digest[:80]!r} names no TinyAda; digests have 12 hexadecimal digits")
        return checked(self.root / digest)

    def prune(self, keep: Iterable[str]) -> None:
        """Delete what the state no longer names; what another gateway may be bringing in is left an hour."""
        kept = set(keep)
        for path in self.root.glob("*"):
            with contextlib.suppress(OSError):
                if path.name not in kept and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    shutil.rmtree(path)


def checked(directory: Path | None) -> TinyAda:
    """The TinyAda in a directory (none: the shipped one), its smoke set passed. Raises `RouterError`."""
    ada = TinyAda.load(directory)
    ada.smoke()
    return ada


def _copy(source: Path, target: Path, follow_links: bool) -> None:
    if source.is_symlink() and not follow_links:
        raise RouterError(f"{source} is a symbolic link, which is not followed: give the directory of the file itself")
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _rename(work: Path, target: Path) -> None:
    try:
        os.rename(work, target)
    except OSError:
        if (target / MANIFEST).is_file():
            raise FileExistsError from None
        raise
