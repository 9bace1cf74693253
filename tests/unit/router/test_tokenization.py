"""Text to token ids: windowing, word look-up, spelling, and any input at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import RouterError
from router.tokenization import HEAD, SPECIAL, TAIL, Tokenizer, window

WORDS = ("account", "interest", "balance", "refactor", "café", "un", "##know", "##n", "?", "π")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer((*SPECIAL, *WORDS))


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.vocabulary[i] for i in tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Account balance?", ["account", "balance", "?"]),
        ("accuont", ["account"]),
        ("acount acccount acxount", ["account"] * 3),
        ("refactors", ["refactor"]),
        ("unknown", ["un", "##know", "##n"]),
        ("7 42 1999 12345 1234567", ["[9]", "[99]", "[YEAR]", "[99999]", "[LONG]"]),
        ("interest\n\nπ", ["interest", "[LINE]", "[LINE]", "π"]),
        ("İnterest ＩＮＴＥＲＥＳＴ", ["interest", "interest"]),
        ("Привет 😀", ["[FOREIGN]", "[SYMBOL]"]),
        ("zzzz", ["[UNK]"]),
        ("", ["[UNK]"]),
        ("\x00\ud800", ["[UNK]"]),
    ],
)
def test_encode(tokenizer: Tokenizer, text: str, expected: list[str]) -> None:
    assert tokens(tokenizer, text) == expected


def test_window_keeps_both_ends() -> None:
    text = "a" * 5_000 + "b" * 5_000
    cut = window(text)
    assert cut == "a" * HEAD + "\n" + "b" * TAIL
    assert window("short") == "short"


def test_a_long_text_costs_no_more_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("account " * 200_000)) <= (HEAD + TAIL) // 4


def test_remembered_words_are_bounded_and_do_not_change_results() -> None:
    small = Tokenizer((*SPECIAL, *WORDS), remember=3)
    large = Tokenizer((*SPECIAL, *WORDS))
    for round_ in range(3):
        for word in ("unknown", "accuont", "qqqqqq", "balancee", "intrest", "qq" * round_):
            assert tokens(small, word) == tokens(large, word)


def test_chunks_are_split_as_their_text_is(tokenizer: Tokenizer) -> None:
    """No token that text cannot hold as one piece: shapes, continuations, signs that unfold."""
    made = Tokenizer((*SPECIAL, *WORDS, "[", "]", "#", ".", "…", "##ing"))
    assert tokens(made, "[0] ##know … ##ing.") == [
        *("[", "[0]", "]"),
        *("#", "#", "[UNK]"),
        *(".", ".", "."),
        *("#", "#", "[UNK]", "."),
    ]


def test_a_vocabulary_without_special_tokens_is_refused() -> None:
    with pytest.raises(RouterError, match="special tokens"):
        Tokenizer(("account",))


@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_text_has_tokens_of_the_vocabulary(text: str) -> None:
    tokenizer = Tokenizer((*SPECIAL, *WORDS))
    ids = tokenizer.encode(text)
    assert ids.size >= 1
    assert ids.min() >= 0
    assert ids.max() < len(tokenizer.vocabulary)


@given(st.text(max_size=200))
def test_case_does_not_matter(text: str) -> None:
    tokenizer = Tokenizer((*SPECIAL, *WORDS))
    if text.isascii():
        assert tokens(tokenizer, text) == tokens(tokenizer, text.upper())
