"""The shipped adapters on the real engine: the same greedy words as our own layer gives, and passed exams."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from adapters.evaluation import BASE, exam_matrix, exam_questions
from adapters.exams import EXAMS
from adapters.generation import LocalModels
from adapters.lora import LoraConfig
from adapters.pretraining.questions import write_questions
from adapters.training import TrainSettings, train
from tests.engine.conftest import System

BUNDLE = Path(__file__).resolve().parent.parent.parent / "adapters" / "bundle"
COUNT = 12
AGREEMENT = 10  # of COUNT: the engine computes in bf16 in another order, so a near tie may fall the other way
OWN, OTHER = 0.8, 0.2  # the bars of the exams


@pytest.fixture(scope="module")
def models() -> LocalModels:
    """The bundle's adapters under our own layer, in the precision that the engine uses."""
    paths = {domain: BUNDLE / domain for domain in EXAMS}
    return LocalModels(str(BUNDLE / "base"), paths, dtype=torch.bfloat16)


def ask_engine(url: str, names: dict[str, str]) -> Any:
    """`ask` of `exam_matrix`, through the server; `base` is asked for as `general`."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)

    def ask(name: str, prompts: Sequence[str]) -> list[str]:
        model = names["general" if name == BASE else name]
        answers = []
        for prompt in prompts:
            messages: Any = [{"role": "user", "content": prompt}]
            done = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=96)
            answers.append(done.choices[0].message.content or "")
        return answers

    return ask


@pytest.mark.parametrize("domain", EXAMS)
def test_greedy_words_are_ours(engine_url: str, served_names: dict[str, str], models: LocalModels, domain: str) -> None:
    prompts = [question.prompt for question in exam_questions(domain, COUNT)]
    ours = models.answer(domain, prompts)
    theirs = ask_engine(engine_url, served_names)(domain, prompts)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= AGREEMENT, list(zip(ours, theirs, strict=True))
    assert ours != models.answer(BASE, prompts)


@pytest.mark.parametrize("domain", EXAMS)
def test_each_adapter_passes_its_own_exam_alone(engine_url: str, served_names: dict[str, str], domain: str) -> None:
    measured = json.loads((BUNDLE / "manifest.json").read_text())["exams"]["matrix"]
    wrong = list(EXAMS)[(list(EXAMS).index(domain) + 1) % len(EXAMS)]
    matrix = exam_matrix(ask_engine(engine_url, served_names), (domain, wrong, BASE), (domain,), COUNT)
    # The manifest's figures were computed in this process's float32; a dozen questions say them within three.
    assert matrix[domain][domain] >= min(OWN, measured[domain][domain]) - 3 / COUNT
    assert matrix[wrong][domain] <= OTHER
    assert matrix[BASE][domain] <= OTHER


def test_a_small_training_ends_in_the_real_engine(system: System, tmp_path: Path) -> None:
    data, out = tmp_path / "finance.jsonl", tmp_path / "fresh"
    write_questions("finance", data, 400)
    settings = TrainSettings(lora=LoraConfig(rank=8, alpha=16), steps=12, learning_rate=3e-3, batch_rows=4)
    manifest = train(str(BUNDLE / "base"), data, "finance", out, settings)
    losses = [entry["held_out_loss"] for entry in manifest["history"]]
    assert manifest["steps"] == 12
    assert losses[-1] < 3
    system.wait_ready()
    command = system.engine().cmdline()
    transport = httpx.HTTPTransport(uds=command[command.index("--uds") + 1])
    with httpx.Client(transport=transport, base_url="http://engine", timeout=120) as client:
        loaded = client.post("/v1/load_lora_adapter", json={"lora_name": "fresh", "lora_path": str(out)})
        assert loaded.status_code == 200, loaded.text
        question = exam_questions("finance", 1)[0].prompt
        body = {
            "model": "fresh",
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 24,
        }
        answer = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "fresh"}).status_code == 200
    assert (
        answer
        == LocalModels(str(BUNDLE / "base"), {"fresh": out}, dtype=torch.bfloat16).answer("fresh", [question], 24)[0]
    )
