"""A gateway in front of the fake engine, both on loopback, with the real TinyAda."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from server.app import create_app
from server.settings import Settings, load
from tests.fake_engine import FakeEngine, Served
from tests.waiting import wait_until

DOMAINS = ("code", "sql", "math", "medical", "finance", "legal", "support")

# One plain prompt for each domain, the base's included.
PROMPTS = {
    "code": "Write a Python function that reverses a linked list and returns the new head.",
    "sql": "Write a SQL query that lists the ten customers with the highest total order amount.",
    "math": "Solve for x: 3x + 7 = 22. Show the steps of the equation.",
    "medical": "What is the usual dose of ibuprofen for an adult with a migraine, and what side effects can it have?",
    "finance": "How do I transfer money from my savings account to my checking account, and what interest do I lose?",
    "legal": "Does this non-compete clause in my employment contract hold up in court under state law?",
    "support": "Hi, my order arrived damaged and I want a refund. My order number is 48213.",
    "general": "Tell me a short story about a fox who learns to paint.",
}


def make_adapter(directory: Path, seed: int = 0, rank: int = 8) -> Path:
    """A small LoRA on disk: right files, arbitrary weights."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(seed)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{prefix}.lora_A.weight": random.normal(size=(rank, 64)).astype(np.float32),
        f"{prefix}.lora_B.weight": random.normal(size=(64, rank)).astype(np.float32),
    }
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture
def configuration(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return sections(tmp_path)


def sections(directory: Path) -> dict[str, dict[str, Any]]:
    """Sections for `settings.load`: a base's config and an adapter for each domain."""
    base = directory / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"hidden_size": 64, "num_attention_heads": 2}))
    weights = {"model.layers.0.self_attn.q_proj.weight": np.zeros((64, 64), np.float32)}
    save_file(weights, base / "model.safetensors")
    adapters = {
        name: {"path": str(make_adapter(directory / name, seed)), "domain": name} for seed, name in enumerate(DOMAINS)
    }
    return {
        "base": {"model": str(base)},
        "adapters": adapters,
        "engine": {"device": "cpu", "poll_interval": 0.1},
        "store": {"path": str(directory / "store"), "sources": [str(directory)]},
    }


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def engine_url(fake: FakeEngine) -> Iterator[str]:
    with Served(fake) as served:
        yield served.url


@pytest.fixture
def settings(configuration: dict[str, dict[str, Any]], engine_url: str) -> Settings:
    configuration["engine"]["urls"] = [engine_url]
    return load(None, configuration)


@pytest.fixture
def gateway_url(settings: Settings) -> Iterator[str]:
    with Served(create_app(settings), lifespan="on") as served:
        wait_until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)
        yield served.url


@pytest.fixture
def http(gateway_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway_url, timeout=30) as client:
        yield client


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Another version of `legal`."""
    return make_adapter(tmp_path / "second", seed=99)
