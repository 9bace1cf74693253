"""QLoRA: the same layer on a base in NF4, near the full-precision one."""

from pathlib import Path

import pytest
import torch

from adapters import lora
from adapters.quantization import memory, quantize_nf4
from tests.unit.adapters.test_lora import add, logits, plain

TOLERANCE = 0.4  # relative error of the logits: a 4-bit weight errs by about a tenth, twice seven layers deep


def test_nf4_is_near_full_precision_and_small(base: Path) -> None:
    full, quantised = plain(base), plain(base)
    assert quantize_nf4(quantised) == 2 * 7
    assert memory(quantised) < 0.55 * memory(full)  # the embedding stays in float32
    for model in (full, quantised):
        add(model, lora.LoraConfig(rank=8), "default", seed=4)
    reference = logits(full).detach()
    error = float((logits(quantised).detach() - reference).norm() / reference.norm())
    assert 0 < error < TOLERANCE


def test_gradients_reach_the_adapter_alone(base: Path) -> None:
    model = plain(base)
    quantize_nf4(model)
    add(model, lora.LoraConfig(rank=4), "default", seed=4)
    logits(model).square().mean().backward()  # type: ignore[no-untyped-call]
    with_gradient = [parameter for parameter in model.parameters() if parameter.grad is not None]
    assert len(with_gradient) == len(lora.trainable(model)) == 2 * 7 * 2
    assert all(bool(parameter.grad.any()) for parameter in with_gradient if parameter.grad is not None)


def test_what_needs_plain_weights_is_refused(base: Path) -> None:
    model = plain(base)
    quantize_nf4(model)
    with pytest.raises(ValueError, match="DoRA needs"):
        lora.inject(model, lora.LoraConfig(dora=True))
    model = plain(base)
    quantize_nf4(model)
    lora.inject(model, lora.LoraConfig())
    with pytest.raises(ValueError, match="full precision"), lora.merged(model):
        pass
    assert torch.isfinite(logits(model)).all()
