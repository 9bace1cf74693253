"""The route table: shares, stickiness, and when a route follows the desired state."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from adapters.state import Phase, State, move, publish, remove, route
from adapters.version import Version
from server.table import Route, RouteTable, follow

V1, V2 = "1" * 12, "2" * 12


def version(name: str, digest: str, domain: str | None = None) -> Version:
    return Version(name, digest, Path("/store") / f"{name}@{digest}", domain)


def table(
    state: State, loaded: Callable[[str], bool] = lambda name: True, current: RouteTable | None = None
) -> RouteTable:
    empty = RouteTable.of("zephyra", "zephyra-resolve", {}, None)
    return follow(state, current or empty, version, loaded)


def served(*digests: str) -> State:
    state = State()
    for digest in digests:
        state = publish(state, "legal", digest, 1.0, domain="legal")
        state = move(state, "legal", digest, Phase.READY, 2.0)
    return state


@given(st.integers(1, 99))
def test_shares_follow_the_weights(weight: int) -> None:
    shares = Route(((version("a", V1), weight), (version("a", V2), 100 - weight)))
    picked = Counter(shares.pick(str(n).encode()).digest for n in range(2000))
    assert abs(picked[V1] / 2000 - weight / 100) < 0.06


@given(st.integers(1, 98), st.binary())
def test_growing_a_canary_takes_no_conversation_from_it(weight: int, conversation: bytes) -> None:
    def pick(canary: int) -> str:
        return Route(((version("a", V1), 100 - canary), (version("a", V2), canary))).pick(conversation).digest

    assert pick(weight) == V1 or pick(weight + 1) == V2


def test_a_route_changes_when_the_engines_have_it() -> None:
    before = table(served(V1))
    assert before.adapters["legal"].digest == V1
    waiting = table(served(V1, V2), lambda name: name != f"legal@{V2}", before)
    assert waiting.adapters["legal"].digest == V1
    assert table(served(V1, V2), current=waiting).adapters["legal"].digest == V2


def test_a_canary_waits_for_all_its_versions() -> None:
    state = move(publish(served(V1), "legal", V2, 3.0, activate=False), "legal", V2, Phase.READY, 3.0)
    before = table(state)
    assert set(before.pinned) == {f"legal@{V1}", f"legal@{V2}"}
    state = route(state, "legal", {V1: 95, V2: 5}, 4.0)
    assert len(table(state, lambda name: V2 not in name, before).routes["legal"].shares) == 1
    assert [share for _, share in table(state, current=before).routes["legal"].shares] == [95, 5]


def test_a_name_without_any_route_is_pending_and_then_gone() -> None:
    state = publish(State(), "legal", V1, 1.0, domain="legal")
    first = table(state)
    assert first.pending == {"legal"}
    assert first.names == ["zephyra-resolve", "zephyra"]
    assert not first.domains
    up = table(served(V1))
    assert dict(up.domains) == {"legal": "legal"}
    gone = table(remove(served(V1), "legal", 5.0), current=up)
    assert gone.names == ["zephyra-resolve", "zephyra"]
    assert not gone.pending | set(gone.domains) | set(gone.pinned)


def test_after_a_restart_the_desired_route_is_taken_at_once() -> None:
    assert table(served(V1, V2), lambda name: False).adapters["legal"].digest == V2
