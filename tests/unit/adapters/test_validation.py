"""Every refusal before an engine is asked, each with its own code; and what is fine passes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from adapters.importing import import_adapter
from adapters.validation import AdapterError, base_digest, base_modules, check_name, validate
from adapters.zero import write_zero_adapter

Change = Callable[[Path], None]
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A good adapter for the unit tests' base: rank 4 on q_proj, 64 by 64."""
    directory = tmp_path / "good"
    directory.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    weights(directory, np.ones((4, 64), np.float32), np.ones((64, 4), np.float32))
    return directory


def weights(directory: Path, a: Any, b: Any, module: str = MODULE) -> None:
    tensors = {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    present = {key: value for key, value in tensors.items() if value is not None}
    save_file(present, directory / "adapter_model.safetensors")


def config(**changes: Any) -> Change:
    def change(directory: Path) -> None:
        path = directory / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(a: Any, b: Any, module: str = MODULE) -> Change:
    return lambda directory: weights(directory, a, b, module)


def file(name: str, content: bytes | None) -> Change:
    def change(directory: Path) -> None:
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content)

    return change


def pickled(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


def truncated(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def odd_tensor(directory: Path) -> None:
    save_file({f"{MODULE}.lora_magnitude_vector": np.ones(64, np.float32)}, directory / "adapter_model.safetensors")


ONES, COLUMN = np.ones((4, 64), np.float32), np.ones((64, 4), np.float32)
REFUSED: list[tuple[str, Change]] = [
    ("missing_file", file("adapter_config.json", None)),
    ("missing_file", file("adapter_model.safetensors", None)),
    ("unsafe_format", pickled),
    ("broken_file", file("adapter_config.json", b"{")),
    ("broken_file", file("adapter_config.json", b"[]")),
    ("broken_file", file("adapter_config.json", b"\xff\xfe")),
    ("broken_file", truncated),
    ("broken_file", file("adapter_model.safetensors", b"")),
    ("broken_file", file("adapter_model.safetensors", b"\xff" * 64)),
    ("unsupported", config(peft_type="IA3")),
    ("unsupported", config(use_dora=True)),
    ("unsupported", config(alora_invocation_tokens=[1])),
    ("unsupported", config(bias="all")),
    ("unsupported", config(modules_to_save=["lm_head"])),
    ("unsupported", config(init_lora_weights="pissa")),
    ("unsupported", odd_tensor),
    ("bad_rank", config(r=0)),
    ("bad_rank", config(r="8")),
    ("bad_rank", config(r=True)),
    ("bad_rank", config(r=32)),
    ("bad_rank", config(rank_pattern={"q_proj": 64})),
    ("no_target", config(target_modules=[])),
    ("no_target", file("adapter_model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}")),
    ("no_target", tensors(ONES, COLUMN, "base_model.model.model.layers.9.self_attn.q_proj")),
    ("wrong_shape", tensors(np.ones((4, 32), np.float32), COLUMN)),
    ("wrong_shape", tensors(ONES, np.ones((96, 4), np.float32))),
    ("wrong_shape", tensors(np.ones((8, 64), np.float32), np.ones((64, 8), np.float32))),
    ("wrong_shape", tensors(np.ones((4, 64, 1), np.float32), COLUMN)),
    ("broken_file", tensors(ONES, None)),
    ("bad_weights", tensors(ONES * np.nan, COLUMN)),
    ("bad_weights", tensors(ONES, COLUMN * np.inf)),
    ("bad_weights", tensors(ONES, COLUMN * 0)),
]  # fmt: skip


def test_a_good_adapter_passes(adapter: Path, base: Path) -> None:
    facts = validate(adapter, str(base), max_rank=16)
    assert facts.rank == 4
    assert facts.modules == ("model.layers.0.self_attn.q_proj",)
    assert facts.bytes == (adapter / "adapter_model.safetensors").stat().st_size
    config(rank_pattern={"k_proj": 8})(adapter)
    assert validate(adapter, str(base)).rank == 8


@pytest.mark.parametrize(("code", "change"), REFUSED, ids=[f"{i}-{code}" for i, (code, _) in enumerate(REFUSED)])
def test_what_cannot_be_served_is_refused(adapter: Path, base: Path, tmp_path: Path, code: str, change: Change) -> None:
    change(adapter)
    with pytest.raises(AdapterError) as refused:
        validate(adapter, str(base), max_rank=16)
    assert refused.value.code == code, str(refused.value)
    assert len(str(refused.value)) > 20
    with pytest.raises(AdapterError):
        import_adapter(adapter, tmp_path / "store" / "mine", str(base), max_rank=16)
    assert list((tmp_path / "store").iterdir()) == []


def test_missing_places_are_refused(adapter: Path, tmp_path: Path) -> None:
    for base in (str(tmp_path / "nowhere"), "no-such-owner/no-such-model", str(tmp_path)):
        with pytest.raises(AdapterError) as refused:
            validate(adapter, base)
        assert refused.value.code == "missing_base"
    with pytest.raises(AdapterError) as refused:
        validate(tmp_path / "nowhere")
    assert refused.value.code == "missing_file"


def test_bfloat16_is_read(adapter: Path, base: Path) -> None:
    good = {f"{MODULE}.lora_A.weight": torch.ones(4, 64), f"{MODULE}.lora_B.weight": torch.randn(64, 4)}
    path = adapter / "adapter_model.safetensors"
    save_torch({key: value.bfloat16() for key, value in good.items()}, path)
    assert validate(adapter, str(base)).rank == 4
    good[f"{MODULE}.lora_A.weight"][0, 0] = float("nan")
    save_torch({key: value.bfloat16() for key, value in good.items()}, path)
    with pytest.raises(AdapterError, match="NaN"):
        validate(adapter, str(base))


def test_the_zero_adapter_is_fine_where_it_is_meant(base: Path, tmp_path: Path) -> None:
    zero = write_zero_adapter(str(base), tmp_path / "zero")
    assert validate(zero, str(base), allow_zero=True).rank == 8
    with pytest.raises(AdapterError, match="never trained"):
        validate(zero, str(base))


def test_import_copies_and_writes_the_manifest_last(adapter: Path, base: Path, tmp_path: Path) -> None:
    (adapter / "surprise.py").write_text("raise SystemExit")
    out = tmp_path / "store" / "mine"
    import_adapter(adapter, out, str(base), "legal")
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "manifest.json",
    ]  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["domain"] == "legal"
    assert manifest["base_digest"] == base_digest(str(base))
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (adapter / name).read_bytes()
    with pytest.raises(FileExistsError, match="not overwritten"):
        import_adapter(adapter, out, str(base))


def test_base_modules_and_digest(base: Path) -> None:
    modules = base_modules(str(base))
    assert modules["model.layers.1.mlp.down_proj"] == (64, 96)
    assert modules["model.layers.0.self_attn.k_proj"] == (32, 64)
    assert len(base_digest(str(base))) == 16


@pytest.mark.parametrize("name", ["medical", "a", "7b-chat_2", "x" * 63])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "Medical", "-x", "_x", "a,b", "a/b", "..", "a b", "a@1", "x" * 64, "text", "image", "input", "zephyra",
             "zephyra-resolve", "é", "a\n"],
)  # fmt: skip
def test_bad_names(name: str) -> None:
    with pytest.raises(AdapterError) as refused:
        check_name(name)
    assert refused.value.code == "unsafe_name"


@given(st.binary(max_size=200))
def test_wild_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    directory = tmp_path_factory.mktemp("wild")
    (directory / "adapter_model.safetensors").write_bytes(content)
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}')
    with pytest.raises(AdapterError):
        validate(directory)
    (directory / "adapter_config.json").write_bytes(content)
    with pytest.raises(AdapterError):
        validate(directory)
