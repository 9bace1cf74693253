"""The desired state's transitions, each alone and in any order."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.state import (
    ROUTABLE,
    Phase,
    State,
    StateError,
    drop,
    move,
    publish,
    remove,
    remove_version,
    rollback,
    route,
)

V1, V2, V3 = "1" * 12, "2" * 12, "3" * 12


def served(*versions: str) -> State:
    """`legal` with the versions published and verified one after the other, the last one served."""
    state = State()
    for version in versions:
        state = publish(state, "legal", version, 1.0, domain="legal")
        state = move(state, "legal", version, Phase.READY, 2.0)
    return state


def phases(state: State) -> dict[str, str]:
    return {digest: str(version.phase) for digest, version in state.adapters["legal"].versions.items()}


def test_a_version_is_routed_once_verified_and_not_before() -> None:
    state = publish(State(), "legal", V1, 1.0)
    assert state.adapters["legal"].weights == {}
    for phase in (Phase.VALIDATING, Phase.LOADING, Phase.VERIFYING):
        state = move(state, "legal", V1, phase, 2.0)
        assert state.adapters["legal"].weights == {}
    state = move(state, "legal", V1, Phase.READY, 3.0, "differs")
    assert state.adapters["legal"].weights == {V1: 100}
    assert [change.phase for change in state.adapters["legal"].versions[V1].history] == [
        "published", "validating", "loading", "verifying", "ready", "serving",
    ]  # fmt: skip


def test_swap_and_rollback() -> None:
    state = served(V1, V2)
    assert phases(state) == {V1: "draining", V2: "serving"}
    state = rollback(state, "legal", 3.0)
    assert state.adapters["legal"].weights == {V1: 100}
    assert phases(state) == {V1: "serving", V2: "draining"}


def test_rollback_to_a_retired_version_brings_it_up_first() -> None:
    state = move(served(V1, V2), "legal", V1, Phase.RETIRED, 3.0)
    state = rollback(state, "legal", 4.0)
    assert state.adapters["legal"].weights == {V2: 100}
    assert phases(state) == {V1: "published", V2: "serving"}
    state = move(state, "legal", V1, Phase.READY, 5.0)
    assert state.adapters["legal"].weights == {V1: 100}


def test_rollback_calls_off_a_pending_change() -> None:
    state = publish(served(V1), "legal", V2, 3.0)
    state = rollback(state, "legal", 4.0)
    state = move(state, "legal", V2, Phase.READY, 5.0)
    assert state.adapters["legal"].weights == {V1: 100}
    with pytest.raises(StateError, match="no earlier route"):
        rollback(state, "legal", 6.0)


def test_canary() -> None:
    state = publish(served(V1), "legal", V2, 3.0, activate=False)
    state = move(state, "legal", V2, Phase.READY, 4.0)
    assert phases(state) == {V1: "serving", V2: "ready"}
    state = route(state, "legal", {V1: 95, V2: 5}, 5.0)
    assert state.adapters["legal"].weights == {V1: 95, V2: 5}
    assert phases(state) == {V1: "serving", V2: "serving"}
    assert rollback(state, "legal", 6.0).adapters["legal"].weights == {V1: 100}


def test_a_failed_version_is_never_routed_and_the_old_one_stays() -> None:
    state = publish(served(V1), "legal", V2, 3.0)
    state = move(state, "legal", V2, Phase.FAILED, 4.0, "rank 64")
    assert state.adapters["legal"].weights == {V1: 100}
    assert state.adapters["legal"].target is None
    with pytest.raises(StateError, match=r"failed .rank 64.; publish it again"):
        route(state, "legal", {V2: 100}, 5.0)
    again = publish(state, "legal", V2, 6.0)
    assert phases(again)[V2] == "published"


def test_removing() -> None:
    state = served(V1, V2)
    with pytest.raises(StateError, match="being served; change the route first"):
        remove_version(state, "legal", V2, 3.0)
    state = remove_version(state, "legal", V1, 3.0)
    assert state.adapters["legal"].versions[V1].removing
    state = drop(state, "legal", V1)
    with pytest.raises(StateError, match="no version"):
        state.version("legal", V1)
    state = remove(state, "legal", 4.0)
    assert remove(state, "legal", 5.0) == state
    assert state.resident() == []
    with pytest.raises(StateError, match="being removed"):
        publish(state, "legal", V3, 5.0)
    state = drop(state, "legal", V2)
    assert state.adapters == {}
    assert publish(state, "legal", V3, 6.0).adapters["legal"].domain is None


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda state: route(state, "legal", {}, 1.0), "at least one version"),
        (lambda state: route(state, "legal", {V1: 0}, 1.0), "at least one version"),
        (lambda state: route(state, "legal", {V1: 5, V2: -1}, 1.0), "none one below"),
        (lambda state: route(state, "law", {V1: 5}, 1.0), "no adapter 'law'; there are: legal"),
        (lambda state: route(state, "legal", {V3: 5}, 1.0), f"no version '{V3}'; it has: {V1}"),
        (lambda state: publish(state, "law", V3, 1.0, domain="legal"), "already served by 'legal'"),
        (lambda state: publish(state, "legal", V3, 1.0, domain="sql"), "serves the domain 'legal'"),
    ],
)
def test_refusals_say_what_would_fit(change: Callable[[State], State], finding: str) -> None:
    with pytest.raises(StateError, match=finding):
        change(served(V1))


VERSIONS = st.sampled_from([V1, V2, V3])
CHANGES = st.one_of(
    st.tuples(st.just("publish"), VERSIONS, st.booleans()),
    st.tuples(st.just("move"), VERSIONS, st.sampled_from([p for p in Phase if p not in (Phase.SERVING,)])),
    st.tuples(st.just("route"), st.dictionaries(VERSIONS, st.integers(-1, 100)), st.none()),
    st.tuples(st.just("rollback"), st.none(), st.none()),
    st.tuples(st.just("remove_version"), VERSIONS, st.none()),
)


def apply(state: State, change: tuple[str, object, object]) -> State:
    kind, first, second = change
    actions: dict[str, Callable[[], State]] = {
        "publish": lambda: publish(state, "legal", str(first), 1.0, activate=bool(second)),
        "move": lambda: advance(state, str(first), Phase(str(second))),
        "route": lambda: route(state, "legal", first, 1.0),  # type: ignore[arg-type]
        "rollback": lambda: rollback(state, "legal", 1.0),
        "remove_version": lambda: remove_version(state, "legal", str(first), 1.0),
    }
    return actions[kind]()


def advance(state: State, digest: str, phase: Phase) -> State:
    """What gateways do: only rising versions rise or fail, only draining ones retire."""
    now = state.version("legal", digest).phase
    rising = now in (Phase.PUBLISHED, Phase.VALIDATING, Phase.LOADING, Phase.VERIFYING)
    allowed = {Phase.FAILED, Phase.READY, Phase.LOADING, Phase.VERIFYING, Phase.VALIDATING}
    if (rising and phase in allowed) or (now is Phase.DRAINING and phase is Phase.RETIRED):
        return move(state, "legal", digest, phase, 1.0)
    return state


@given(st.lists(CHANGES, max_size=25))
def test_whatever_happens_only_verified_versions_are_routed(changes: list[tuple[str, object, object]]) -> None:
    state = served(V1)
    for change in changes:
        try:
            state = apply(state, change)
        except StateError:
            continue
        adapter = state.adapters["legal"]
        assert adapter.weights
        assert set(adapter.weights) <= set(adapter.versions)
        for digest, version in adapter.versions.items():
            assert (digest in adapter.weights) == (version.phase is Phase.SERVING)
        assert all(adapter.versions[digest].phase in ROUTABLE for digest in adapter.weights)
        if adapter.target is not None:
            assert set(adapter.target) <= set(adapter.versions)
        assert not set(adapter.weights) & {d for d, v in adapter.versions.items() if v.removing}
