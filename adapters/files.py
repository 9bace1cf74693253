"""An adapter's files on disk, in PEFT's format: what vLLM and peft read, and what they write."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapters import lora

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"


def save_adapter(model: nn.Module, config: lora.LoraConfig, directory: Path, base: str, name: str = "default") -> None:
    """Write adapter `name` of `model` into `directory`, which exists. `base` is recorded, not read."""
    save_file(lora.adapter_state(model, name), directory / WEIGHTS, metadata={"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(peft_config(config, base), indent=2) + "\n")


def load_adapter(model: nn.Module, directory: Path, name: str) -> lora.LoraConfig:
    """Put the adapter in `directory` on `model` as `name` and make it active. Raises `ValueError` on misfit."""
    raw = json.loads((directory / CONFIG).read_text())
    config = lora_config(raw)
    state = load_file(directory / WEIGHTS)
    # Only layers that the file has: an adapter may target some layers of a kind and not others.
    wanted = {key.removeprefix(lora.PREFIX).rsplit(".", 2)[0] for key in state}
    lora.inject(model, config, name)
    for path, layer in list(lora.layers(model)):
        if path not in wanted and name in layer.adapters:
            del layer.adapters[name]
    lora.load_adapter_state(model, state, name)
    return config


def peft_config(config: lora.LoraConfig, base: str) -> dict[str, Any]:
    """The content of adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(config.targets),
        "bias": "none",
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def lora_config(raw: dict[str, Any]) -> lora.LoraConfig:
    """PEFT's configuration as ours. Raises `ValueError` for parts of PEFT that this layer does not have."""
    if raw.get("peft_type") != "LORA":
        raise ValueError(f"peft_type is {raw.get('peft_type')!r}: only LORA can be loaded")
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if raw.get(key):
            raise ValueError(f"{key} is set in {CONFIG}: this layer has one rank and alpha for all modules")
    targets = raw["target_modules"]
    if isinstance(targets, str):
        raise ValueError(f"target_modules in {CONFIG} is a pattern: list the modules' names")
    config = lora.LoraConfig(
        rank=raw["r"], alpha=raw["lora_alpha"], dropout=raw.get("lora_dropout", 0.0),
        targets=tuple(sorted({target.rpartition(".")[2] for target in targets})),
    )  # fmt: skip
    return replace(config, rslora=bool(raw.get("use_rslora")), dora=bool(raw.get("use_dora")))


def load_base(base: str, device: str = "cpu", dtype: torch.dtype | None = None) -> tuple[nn.Module, Any]:
    """A causal language model and its tokenizer, from a directory or a Hugging Face id.

    `dtype` defaults to bf16 on a GPU and float32 elsewhere. Raises `ValueError` where there is no chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    if not tokenizer.chat_template:
        raise ValueError(f"the base {base} has no chat template: choose an instruction-tuned base, or add one to it")
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).to(device)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer
