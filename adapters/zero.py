"""The zero adapter: a LoRA whose B is all zeros, so that it changes nothing, made to fit any base.

On vLLM's CPU build a base request batched with LoRA requests is answered under another slot's adapter (vLLM issues
48421 and 49656), so the base is served through this one there.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RANK = 8


def write_zero_adapter(base: str, directory: Path) -> Path:
    """Write a zero adapter for `base`, a directory or a Hugging Face id, into `directory` (made whole or not at all).

    Only layer 0's q_proj is named: the smallest adapter an engine accepts. Raises `OSError` where the base's
    config.json cannot be had and `KeyError` where it names no hidden size.
    """
    config = json.loads(_config_path(base).read_text())
    config = config.get("text_config", config)
    hidden: int = config["hidden_size"]
    heads: int = config["num_attention_heads"]
    out = heads * (config.get("head_dim") or hidden // heads)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{prefix}.lora_A.weight": np.full((RANK, hidden), 0.01, np.float32),
        f"{prefix}.lora_B.weight": np.zeros((out, RANK), np.float32),
    }
    adapter_config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as work:
        whole = Path(work) / "zero"
        whole.mkdir()
        save_file(tensors, whole / "adapter_model.safetensors")
        (whole / "adapter_config.json").write_text(json.dumps(adapter_config, indent=2))
        os.rename(whole, directory)
    return directory


def _config_path(base: str) -> Path:
    if Path(base).is_dir():
        return Path(base) / "config.json"
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(base, "config.json"))
