"""Domains added from examples: what changes, what must not, what is refused."""

from pathlib import Path
from shutil import copytree

import pytest

from router import RouterError, TinyAda
from router.manifest import SHIPPED, STATISTICS
from tests.integration.conftest import PROMPTS
from tests.integration.test_added_domain import EXAMPLES, NEW

BIRDS = [f"Which {what} does a {bird} have?" for bird in ("heron", "finch", "wren", "owl") for what in
         ("nest", "song", "plumage", "habitat", "diet")]  # fmt: skip


@pytest.fixture(scope="module")
def ada() -> TinyAda:
    return TinyAda.load()


def test_a_domain_is_learned_and_the_others_stay(ada: TinyAda) -> None:
    cooking = ada.domain("cooking", EXAMPLES)
    assert cooking.recall > 0.8
    made = ada.with_domains([cooking])
    found = made.route(NEW)
    assert (found.domain, found.abstained) == ("cooking", False)
    assert sum(found.scores.values()) == pytest.approx(1)
    assert {domain: made.route(text).domain for domain, text in PROMPTS.items()} == {name: name for name in PROMPTS}
    assert ada.route(NEW).domain != "cooking"
    assert made.digest != ada.digest


def test_two_added_domains_beside_each_other(ada: TinyAda) -> None:
    made = ada.with_domains([ada.domain("cooking", EXAMPLES), ada.domain("birds", BIRDS)])
    assert made.route(NEW).domain == "cooking"
    assert made.route("Which nest does a sparrow have?").domain == "birds"


def test_an_empty_addition_changes_nothing(ada: TinyAda) -> None:
    made = ada.with_domains([])
    assert made.digest == ada.digest
    for text in PROMPTS.values():
        assert made.route(text).scores == ada.route(text).scores


def test_examples_of_a_known_domain_are_refused(ada: TinyAda) -> None:
    with pytest.raises(RouterError, match="needs no examples"):
        ada.domain("legal", EXAMPLES)


def test_examples_of_everything_are_refused(ada: TinyAda) -> None:
    mixed = [f"{text} ({n})" for n in range(3) for text in PROMPTS.values()]
    with pytest.raises(RouterError, match="do not tell 'all' from the domains that are known"):
        ada.domain("all", mixed)


def test_the_same_examples_make_the_same_class(ada: TinyAda) -> None:
    first, again = (ada.domain("cooking", EXAMPLES) for _ in range(2))
    assert (first.digest, first.threshold, first.offset) == (again.digest, again.threshold, again.offset)


def test_weights_without_statistics_serve_but_learn_nothing(tmp_path: Path) -> None:
    from router.manifest import read_manifest, write_manifest

    bare = copytree(SHIPPED, tmp_path / "bare")
    manifest = read_manifest(bare)
    (bare / STATISTICS).unlink()
    write_manifest(bare, manifest)
    ada = TinyAda.load(bare)
    assert ada.route(PROMPTS["sql"]).domain == "sql"
    with pytest.raises(RouterError, match="train it again"):
        ada.domain("cooking", EXAMPLES)


def test_changed_statistics_are_refused(tmp_path: Path) -> None:
    other = copytree(SHIPPED, tmp_path / "other")
    with (other / STATISTICS).open("ab") as file:
        file.write(b"x")
    with pytest.raises(RouterError, match="not the file that the manifest was written for"):
        TinyAda.load(other)
