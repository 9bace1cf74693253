"""The store: versions whole or absent, one state or the next, whenever the writer is killed."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.state import Phase, State, StateError, move, publish, route
from adapters.store import MANIFEST, Store, StoreError
from adapters.version import digest
from tests.integration.conftest import make_adapter

CALLS = ("rename", "replace", "fsync", "open", "chmod", "mkdir", "unlink", "rmdir")


def serve(store: Store, name: str, source: Path) -> str:
    """Publish and bring all the way to serving."""
    version = store.publish(name, source)
    store.change(lambda state: publish(state, name, version, 1.0))
    store.change(lambda state: move(state, name, version, Phase.READY, 2.0))
    return version


def test_a_published_version_is_a_whole_copy(tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "source")
    store = Store.open(tmp_path / "store")
    version = store.publish("legal", source)
    assert version == digest(source) == digest(store.path("legal", version))
    manifest = json.loads((store.path("legal", version) / MANIFEST).read_text())
    assert (manifest["name"], manifest["digest"]) == ("legal", version)
    before = store.path("legal", version).stat().st_ino
    assert store.publish("legal", source) == version
    assert store.path("legal", version).stat().st_ino == before
    assert [path.name for path in store.path("legal", version).parent.iterdir()] == [f"legal@{version}"]


@pytest.mark.parametrize(
    ("name", "version"),
    [("..", "0" * 12), ("a/b", "0" * 12), ("legal", "../../../etc"), ("legal", "0" * 11), ("Legal", "0" * 12)],
)
def test_no_name_leads_out_of_the_store(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(StoreError, match="names no version"):
        Store.open(tmp_path).path(name, version)


def test_links_are_not_followed_unless_trusted(tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "source")
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in source.iterdir():
        (linked / file.name).symlink_to(file)
    store = Store.open(tmp_path / "store")
    with pytest.raises(StoreError, match="symbolic link"):
        store.publish("legal", linked)
    assert store.publish("legal", linked, follow_links=True) == digest(source)


def test_a_missing_file_leaves_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    with pytest.raises(StoreError, match="is missing"):
        store.publish("legal", tmp_path)
    assert list((store.root / "versions").iterdir()) == []


def test_a_foreign_or_broken_state_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for text in ("{", "[]", '{"format": 99}', '{"adapters": 3}'):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(StoreError, match=r"state\.json"):
            store.read()


def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    serve(store, "legal", make_adapter(tmp_path / "one"))
    before = store.read()
    with pytest.raises(StateError, match="no version 'ffffffffffff'"):
        store.change(lambda state: route(state, "legal", {"f" * 12: 100}, 3.0))
    assert store.read() == before
    assert store.change(lambda state: state).revision == before.revision


def test_files_go_only_when_the_state_names_them_no_more(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    version = serve(store, "legal", make_adapter(tmp_path / "one"))
    store.delete("legal", version)
    assert store.holds("legal", version)
    store.change(lambda state: State())
    store.delete("legal", version)
    assert not store.path("legal", version).exists()


def test_old_left_overs_are_swept_and_new_ones_are_not(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    old, new = store.root / "versions" / ".incoming-old", store.root / "versions" / ".incoming-new"
    deleted = store.root / "versions" / ".trash-new"
    for directory in (old, new, deleted):
        directory.mkdir()
    os.utime(old, (1, 1))
    Store.open(tmp_path)
    assert (old.exists(), new.exists(), deleted.exists()) == (False, True, False)


def test_a_claim_has_one_holder_and_dies_with_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with store.claim("legal", "0" * 12) as first, store.claim("legal", "0" * 12) as second:
        assert (first, second) == (True, False)
    with store.claim("legal", "0" * 12) as third:
        assert third


def test_gateways_see_each_other_until_they_are_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path)
    store.report("one", ["legal@1"], ["legal@1", "legal@2"])
    assert store.others("one") == []
    assert [use.holds for use in store.others("two")] == [frozenset({"legal@1", "legal@2"})]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert store.others("two") == []


def killed_at(call: int, work: Callable[[], Any]) -> None:
    """Run `work`, and die by SIGKILL just before the `call`-th call that touches the file system."""
    left = call

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))
    work()


def swap(root: Path, source: Path) -> None:
    serve(Store(root), "legal", source)


def test_killed_at_every_step_the_state_is_old_or_new(tmp_path: Path) -> None:
    """The whole of a swap: files in, state on through its phases, route changed. Then again, unharmed."""
    one, two = make_adapter(tmp_path / "one", 1), make_adapter(tmp_path / "two", 2)
    old, new = digest(one), digest(two)
    context = multiprocessing.get_context("fork")
    steps, seen = 0, set()
    for call in range(1, 200):
        root = tmp_path / f"store-{call}"
        store = Store.open(root)
        serve(store, "legal", one)
        child = context.Process(target=killed_at, args=(call, lambda root=root: swap(root, two)))
        child.start()
        child.join()
        store = Store.open(root)
        adapter = store.read().adapters["legal"]
        assert adapter.weights in ({old: 100}, {new: 100})
        for version in adapter.versions:
            assert store.holds("legal", version)
            assert digest(store.path("legal", version)) == version
        seen.add(tuple(adapter.weights))
        swap(root, two)
        assert store.read().adapters["legal"].weights == {new: 100}
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        steps += 1
    assert steps > 15
    assert seen == {(old,), (new,)}


def test_versions_outside_the_state_are_swept_once_old_and_unused(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    kept = serve(store, "legal", make_adapter(tmp_path / "one", 1))
    source = make_adapter(tmp_path / "two", 2)
    paths = {name: store.path(name, store.publish(name, source)) for name in ("old", "held", "young", "zero")}
    paths["known"] = store.path("legal", kept)
    for name, path in paths.items():
        if name != "young":
            os.utime(path, (1, 1))
    store.report("one", [], [paths["held"].name])
    Store.open(store.root)
    assert {name for name, path in paths.items() if path.exists()} == {"held", "young", "zero", "known"}
