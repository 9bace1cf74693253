"""Versions, the zero adapter, and what reconciliation decides."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from adapters.reconciler import plan
from adapters.version import Version, digest, read_version
from adapters.zero import write_zero_adapter
from tests.integration.conftest import make_adapter


def test_digest_follows_the_files(tmp_path: Path) -> None:
    one, same, other = (make_adapter(tmp_path / str(n), seed) for n, seed in ((1, 1), (2, 1), (3, 2)))
    assert digest(one) == digest(same)
    assert digest(one) != digest(other)
    version = read_version("legal", one, "legal")
    assert version.engine_name == f"legal@{digest(one)}"
    assert version.path.is_absolute()


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_version("legal", tmp_path)


def test_zero_adapter_changes_nothing_and_fits(tmp_path: Path) -> None:
    config = {"hidden_size": 48, "num_attention_heads": 3, "head_dim": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    directory = write_zero_adapter(str(tmp_path), tmp_path / "zero")
    tensors = load_file(directory / "adapter_model.safetensors")
    shapes = {name.rsplit(".", 2)[1]: array.shape for name, array in tensors.items()}
    assert shapes == {"lora_A": (8, 48), "lora_B": (96, 8)}
    assert not any(np.any(array) for name, array in tensors.items() if "lora_B" in name)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


def version(name: str) -> Version:
    public, _, hexes = name.partition("@")
    return Version(public, hexes, Path("/store") / name)


NAMES = st.sets(st.sampled_from([f"{name}@{n}" for name in "abc" for n in range(3)]))


@given(NAMES, NAMES, NAMES)
def test_a_plan_reaches_the_desired_state(desired: set[str], loaded: set[str], busy: set[str]) -> None:
    state = dict.fromkeys([*loaded, "guest"], "/x")
    step = plan([version(name) for name in desired], state, lambda name: int(name in busy))
    after = (set(state) | {v.engine_name for v in step.load}) - set(step.unload)
    assert after == desired | (loaded & busy) | {"guest"}
    assert step.drift == len(step.load) + len(step.unload)
    again = plan([version(name) for name in desired], dict.fromkeys(after, "/x"), lambda name: int(name in busy))
    assert again.drift == 0
