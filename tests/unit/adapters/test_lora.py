"""The LoRA layer against peft's, merged against unmerged, and through files both ways."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from adapters import files, lora

IDS = torch.arange(6, 30).reshape(2, 12)
VARIANTS = [{}, {"rslora": True}, {"dora": True}, {"rank": 3, "alpha": 5.0, "targets": ("q_proj", "down_proj")}]


def plain(base: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model


def with_adapter(base: Path, config: lora.LoraConfig, name: str = "default", seed: int = 1) -> nn.Module:
    """A base with an adapter whose B is not zero."""
    model = plain(base)
    add(model, config, name, seed)
    return model


def add(model: nn.Module, config: lora.LoraConfig, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    lora.inject(model, config, name)
    with torch.no_grad():
        for _, layer in lora.layers(model):
            factors = layer.factors(name)
            if factors is not None:
                factors.b.normal_(std=0.1)
                if factors.magnitude is not None:
                    factors.magnitude.mul_(torch.rand_like(factors.magnitude) + 0.5)


def logits(model: Any) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=IDS).logits
    return out


@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora", "rank 3, two kinds"])
def test_outputs_and_gradients_equal_pefts(base: Path, tmp_path: Path, variant: dict[str, Any]) -> None:
    config = lora.LoraConfig(**{"rank": 8, "alpha": 16.0, **variant})
    ours = with_adapter(base, config)
    files.save_adapter(ours, config, tmp_path, str(base))
    theirs = peft.PeftModel.from_pretrained(plain(base), tmp_path, is_trainable=True)
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)
    assert not torch.allclose(logits(ours), logits(plain(base)), atol=1e-2)
    for model in (ours, theirs):
        logits(model).square().mean().backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    compared = 0
    for path, layer in lora.layers(ours):
        factors = layer.factors("default")
        assert factors is not None
        for side, parameter in (("lora_A", factors.a), ("lora_B", factors.b)):
            expected = gradients[f"base_model.model.{path}.{side}.default.weight"]
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, expected, atol=1e-6, rtol=1e-3), (path, side)
            compared += 1
    assert compared == 2 * len(list(lora.layers(ours)))
    assert compared + (compared // 2 if config.dora else 0) == len(lora.trainable(ours)) == len(gradients)


def test_we_load_what_peft_trains(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=4, lora_alpha=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(plain(base), config)
    theirs.save_pretrained(tmp_path)
    ours = plain(base)
    loaded = files.load_adapter(ours, tmp_path, "from-peft")
    assert loaded == lora.LoraConfig(rank=4, alpha=4, targets=("o_proj", "q_proj"))
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS[:3], ids=["lora", "rslora", "dora"])
def test_merged_equals_unmerged_and_unmerge_is_exact(base: Path, variant: dict[str, Any]) -> None:
    model = with_adapter(base, lora.LoraConfig(rank=8, **variant))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    apart = logits(model)
    with lora.merged(model):
        assert torch.allclose(logits(model), apart, atol=1e-4)
        inside = logits(model)
    assert torch.equal(logits(model), apart)
    assert not torch.equal(inside, logits(plain(base)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_several_adapters_with_a_switch(base: Path) -> None:
    first, second = lora.LoraConfig(rank=4), lora.LoraConfig(rank=8, targets=("v_proj", "up_proj"))
    model = with_adapter(base, first, "first", seed=1)
    add(model, second, "second", seed=2)
    results: dict[str | None, torch.Tensor] = {}
    for name in ("first", "second", None, "first"):
        lora.activate(model, name)
        results.setdefault(name, logits(model))
        assert torch.equal(results[name], logits(model))
    assert torch.equal(results[None], logits(plain(base)))
    assert torch.equal(results["first"], logits(with_adapter(base, first, "first", seed=1)))
    assert not torch.allclose(results["first"], results["second"], atol=1e-2)
    with pytest.raises(KeyError, match="third"):
        lora.activate(model, "third")


def test_only_the_active_adapter_is_trainable(base: Path) -> None:
    model = with_adapter(base, lora.LoraConfig(rank=4), "first")
    add(model, lora.LoraConfig(rank=2, targets=("q_proj",)), "second", seed=2)
    assert len(lora.trainable(model)) == 2 * 2
    lora.activate(model, "first")
    assert len(lora.trainable(model)) == 2 * 7 * 2
    lora.activate(model, None)
    assert lora.trainable(model) == []


def test_a_new_adapter_changes_nothing(base: Path) -> None:
    model = plain(base)
    lora.inject(model, lora.LoraConfig(dropout=0.5))
    assert torch.equal(logits(model), logits(plain(base)))


def test_dropout_acts_in_training_alone(base: Path) -> None:
    model = with_adapter(base, lora.LoraConfig(rank=8, dropout=0.5))
    model.eval()
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_misfits_are_refused(base: Path, tmp_path: Path) -> None:
    model = plain(base)
    with pytest.raises(ValueError, match="no linear layer"):
        lora.inject(model, lora.LoraConfig(targets=("query",)))
    config = lora.LoraConfig(rank=4)
    lora.inject(model, config)
    with pytest.raises(ValueError, match="already"):
        lora.inject(model, config)
    state = lora.adapter_state(model)
    key = next(iter(state))
    with pytest.raises(ValueError, match="names differ"):
        lora.load_adapter_state(model, {other: value for other, value in state.items() if other != key})
    with pytest.raises(ValueError, match="this base needs"):
        lora.load_adapter_state(model, state | {key: torch.zeros(1, 1)})
    with pytest.raises(ValueError, match="only LORA"):
        files.lora_config({"peft_type": "IA3"})
    with pytest.raises(ValueError, match="rank_pattern"):
        files.lora_config({"peft_type": "LORA", "rank_pattern": {"q_proj": 4}})
    with pytest.raises(ValueError, match="pattern"):
        files.lora_config({"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": "all-linear"})
