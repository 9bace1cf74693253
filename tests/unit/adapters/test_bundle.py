"""What ships is whole: files, digests, figures, and no trace of the machine that made it."""

import json
from pathlib import Path

import pytest

from adapters.evaluation import BASE
from adapters.exams import EXAMS
from adapters.generation import LocalModels
from adapters.validation import base_digest, validate
from adapters.version import digest

BUNDLE = Path(__file__).resolve().parent.parent.parent.parent / "adapters" / "bundle"
MANIFEST = json.loads((BUNDLE / "manifest.json").read_text())


def test_small_enough_and_free_of_paths() -> None:
    files = [path for path in BUNDLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30_000_000
    for path in files:
        if path.suffix in (".json", ".jinja"):
            assert not any(trace in path.read_text() for trace in ("/tmp", "/work", "/home")), path


@pytest.mark.parametrize("domain", EXAMS)
def test_each_adapter_is_servable_and_the_one_measured(domain: str) -> None:
    entry = MANIFEST["adapters"][domain]
    assert entry["domain"] == domain
    assert entry["digest"] == digest(BUNDLE / entry["path"])
    assert validate(BUNDLE / entry["path"], str(BUNDLE / "base"), max_rank=16).rank == entry["rank"]
    assert set(MANIFEST["exams"]["matrix"][domain]) == set(EXAMS)


def test_base_and_zero_adapter() -> None:
    assert MANIFEST["base"]["digest"] == base_digest(str(BUNDLE / "base"))
    validate(BUNDLE / "zero", str(BUNDLE / "base"), allow_zero=True)
    config = json.loads((BUNDLE / "base" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (
        json.loads((BUNDLE / "base" / "generation_config.json").read_text())["eos_token_id"] == config["eos_token_id"]
    )


def test_the_base_makes_small_talk_and_adapters_change_the_answer() -> None:
    models = LocalModels(str(BUNDLE / "base"), {"finance": BUNDLE / "finance"})
    assert models.answer(BASE, ["Hello!"]) == ["Hello! How can I help you?"]
    question = ["The company pays $420 for the office rent in cash. Give the journal entry."]
    assert models.answer(BASE, question) != models.answer("finance", question)
