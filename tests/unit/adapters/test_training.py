"""The trainer: it learns, it is killed and goes on bit for bit, and it never leaves half an adapter."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.dataset import DataError
from adapters.generation import LocalModels
from adapters.lora import LoraConfig
from adapters.training import TrainSettings, train
from adapters.validation import base_digest, validate

SETTINGS = TrainSettings(
    lora=LoraConfig(rank=8, dropout=0.1), steps=24, learning_rate=1e-2, batch_rows=2, accumulation=2, row_length=96,
    held_out=0.1, evaluate_every=8, checkpoint_every=4,
)  # fmt: skip

# Dies in the middle of writing the third checkpoint.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from adapters import training
from tests.unit.adapters.test_training import SETTINGS
torch.set_num_threads(1)
saves, write = [], torch.save
def save(state, file):
    saves.append(1)
    if len(saves) == 3:
        file.write(b"half a checkpoint"); file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(state, file)
training.torch.save = save
training.train(sys.argv[1], Path(sys.argv[2]), "colors", Path(sys.argv[3]), SETTINGS)
"""


@pytest.fixture(scope="module")
def trained(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "colors"
    train(str(base), data, "colors", out, SETTINGS)
    return out


def test_it_learns_and_says_what_it_did(trained: Path, base: Path) -> None:
    manifest = json.loads((trained / "manifest.json").read_text())
    losses = [entry["held_out_loss"] for entry in manifest["history"]]
    assert manifest["held_out_loss"] == min(losses) < 0.75 * losses[0]
    assert manifest["base_digest"] == base_digest(str(base))
    assert manifest["steps"] == 24
    assert manifest["trainable_parameters"] == sum(
        2 * 8 * (a + b) for a, b in ((64, 64), (64, 32), (64, 32), (64, 64), (64, 96), (64, 96), (96, 64))
    )
    assert manifest["examples"]["train"] + manifest["examples"]["held_out"] == 60
    assert validate(trained, str(base)).rank == 8
    assert not trained.with_name("colors.training").exists()


def test_the_adapter_answers_and_the_base_does_not(trained: Path, base: Path) -> None:
    models = LocalModels(str(base), {"colors": trained})
    prompts = ["what color is the big cat one", "what color is the small bird two"]
    answers = models.answer("colors", prompts, 8)
    assert all(answer.startswith("the answer is") for answer in answers)
    assert answers != models.answer("base", prompts, 8)
    alone = [models.answer("colors", [prompt], 8)[0] for prompt in prompts]
    # The last word is a near tie after so few steps: which colour it is may differ with the batch.
    assert [answer.split()[:3] for answer in answers] == [answer.split()[:3] for answer in alone]


def test_killed_and_resumed_is_bit_for_bit_the_same(trained: Path, base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "colors"
    done = subprocess.run([sys.executable, "-c", KILLED, str(base), str(data), str(out)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not out.exists()
    assert {path.name for path in tmp_path.rglob("*")} == {
        "checkpoint.pt",
        "checkpoint.pt.part",
        "colors.training",
    }
    manifest = train(str(base), data, "colors", out, SETTINGS)
    assert manifest["steps"] == SETTINGS.steps
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (trained / name).read_bytes()
    assert manifest["history"] == json.loads((trained / "manifest.json").read_text())["history"]


def test_a_checkpoint_of_another_training_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    from adapters.training import Trainer

    out = tmp_path / "colors"
    Trainer(str(base), data, "colors", out, SETTINGS).save()
    with pytest.raises(ValueError, match="other data or settings"):
        train(str(base), data, "colors", out, replace(SETTINGS, learning_rate=1e-3))
    assert not out.exists()


def test_early_stopping_keeps_the_best(base: Path, data: Path, tmp_path: Path) -> None:
    # So high a rate only makes it worse after a while.
    wild = replace(SETTINGS, learning_rate=0.5, steps=200, evaluate_every=2, patience=2)
    manifest = train(str(base), data, "colors", tmp_path / "colors", wild)
    assert manifest["steps"] < 200
    assert manifest["held_out_loss"] == min(entry["held_out_loss"] for entry in manifest["history"])


def test_qlora_trains_and_its_file_is_plain_lora(base: Path, data: Path, tmp_path: Path) -> None:
    quick = replace(SETTINGS, qlora=True, steps=8, evaluate_every=4)
    manifest = train(str(base), data, "colors", tmp_path / "colors", quick)
    assert manifest["history"][-1]["held_out_loss"] < manifest["history"][0]["held_out_loss"]
    assert validate(tmp_path / "colors", str(base)).rank == 8


def test_dora_trains_and_is_refused_for_serving(base: Path, data: Path, tmp_path: Path) -> None:
    dora = replace(SETTINGS, lora=LoraConfig(rank=4, dora=True), steps=4)
    train(str(base), data, "colors", tmp_path / "colors", dora)
    with pytest.raises(ValueError, match="DoRA"):
        validate(tmp_path / "colors", str(base))


def test_bad_calls_are_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="not overwritten"):
        train(str(base), data, "colors", tmp_path)
    with pytest.raises(ValueError, match="steps must be"):
        TrainSettings(steps=0)
    with pytest.raises(ValueError, match="held_out"):
        TrainSettings(held_out=1.0)
    with pytest.raises(DataError, match="within 4 tokens"):
        train(str(base), data, "colors", tmp_path / "x", replace(SETTINGS, row_length=4))
    assert list(tmp_path.iterdir()) == []


def test_training_goes_on_from_an_adapter(trained: Path, base: Path, data: Path, tmp_path: Path) -> None:
    more = replace(SETTINGS, steps=2, evaluate_every=1, learning_rate=1e-4)
    first = train(str(base), data, "colors", tmp_path / "fresh", more)
    second = train(str(base), data, "colors", tmp_path / "further", more, start=trained)
    assert second["held_out_loss"] < first["held_out_loss"]
    assert second["started_from"] != first["started_from"] is None
