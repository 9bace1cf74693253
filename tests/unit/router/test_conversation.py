"""The fold over user turns, and reading messages of any shape."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.conversation import LAST_TURNS, Scores, fold, user_texts

FINANCE, SQL, GENERAL = (0.9, 0.05, 0.05), (0.05, 0.9, 0.05), (0.05, 0.05, 0.9)


def turn(probabilities: tuple[float, ...], known: float = 1.0, leaning: float = 0.0) -> Scores:
    return Scores(probabilities, known, leaning)


@pytest.mark.parametrize(
    ("turns", "best", "kept"),
    [
        ([turn(FINANCE)], 0, False),
        ([turn(FINANCE), turn(GENERAL, leaning=0.9)], 0, True),
        ([turn(FINANCE), turn(GENERAL, leaning=0.9), turn(SQL, leaning=0.8)], 0, True),
        ([turn(FINANCE), turn(SQL)], 1, False),
        ([turn(FINANCE), turn(GENERAL)], 2, False),
        ([turn(FINANCE), turn((0.45, 0.5, 0.05))], 0, True),
        ([turn(FINANCE), turn(GENERAL, known=0.1)], 0, True),
        ([turn(GENERAL, leaning=0.9), turn(SQL)], 1, False),
        ([turn(GENERAL, leaning=0.9), turn((0.45, 0.5, 0.05))], 1, False),
        ([turn(GENERAL, known=0.1), turn((0.5, 0.45, 0.05))], 0, False),
    ],
)
def test_fold(turns: list[Scores], best: int, kept: bool) -> None:
    scores, was_kept = fold(turns, margin=0.2, slip=0.5)
    assert (scores.best, was_kept) == (best, kept)


def test_of_turns_of_one_domain_the_surest_counts() -> None:
    weak = turn((0.6, 0.2, 0.2))
    assert fold([turn(FINANCE), weak], 0.2, 0.5) == (turn(FINANCE), True)
    assert fold([weak, turn(FINANCE)], 0.2, 0.5) == (turn(FINANCE), False)


def test_a_few_words_need_a_greater_margin() -> None:
    for tokens, best in ((3, 0), (30, 1)):
        later = Scores((0.2, 0.75, 0.05), 1.0, 0.0, tokens)
        assert fold([turn(FINANCE), later], 0.2, 0.5)[0].best == best


def test_fold_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fold([], 0.2, 0.5)


def test_only_user_turns_are_read_and_parts_are_joined() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [
        {"role": "system", "content": "You are a bank."},
        {"role": "user", "content": [{"type": "text", "text": "first"}, image, {"type": "text", "text": "part"}]},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "second"},
    ]
    assert user_texts(messages) == ["first\npart", "second"]


def test_only_the_latest_turns_are_read() -> None:
    messages = [{"role": "user", "content": str(i)} for i in range(100)]
    assert user_texts(messages) == [str(i) for i in range(100 - LAST_TURNS, 100)]


@pytest.mark.parametrize("messages", [None, 3, "user", b"x", {}, [], [None, 1, "x"], [{"role": "assistant"}]])
def test_malformed_messages_have_no_turns(messages: Any) -> None:
    assert user_texts(messages) == []


@pytest.mark.parametrize("content", [None, 3, {}, [None, 1, {"text": 5}], [{"type": "image_url"}]])
def test_malformed_content_is_empty(content: Any) -> None:
    assert user_texts([{"role": "user", "content": content}]) == [""]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(("role", "content", "text", "x")), inner),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_without_error(messages: Any) -> None:
    assert all(isinstance(text, str) for text in user_texts(messages))
