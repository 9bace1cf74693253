"""What a decision costs: time by length of text beside an 8-bit MiniLM, files on disk, memory added to a process.

The texts are different prompts of the project's own, so that no word cache is warmed by the text that is timed.

    python -m router.training.bench

Writes ``router/figures/bench.json``, the model card's section of costs, and the manifest's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from router.errors import RouterError
from router.manifest import SHIPPED, read_manifest, write_manifest
from router.model import TinyAda
from router.training.collect import read

LENGTHS = (60, 1_000, 64_000)
PROMPTS = Path(__file__).parent / "prompts"
ROUTER = Path(__file__).parents[1]
BENCH, CARD = ROUTER / "figures" / "bench.json", ROUTER / "CARD.md"

_MEMORY = """
import gc, sys, resource
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before = resident()
import numpy, onnxruntime
imported = resident()
sys.path.insert(0, sys.argv[1])
from router import TinyAda
ada = TinyAda.load(sys.argv[2])
for i in range(200):
    ada.route("How is the interest on account %d computed?" % i * 30)
gc.collect()
print(imported - before, resident() - before)
"""


def bench(weights: Path | None = None, calls: int = 2_000, encoder: bool = True) -> dict[str, Any]:
    """Microseconds of `TinyAda.route` by length, of a MiniLM session, megabytes on disk and resident."""
    directory = weights or SHIPPED
    ada = TinyAda.load(directory)
    result: dict[str, Any] = {"digest": ada.digest, "route": {}}
    for length in LENGTHS:
        texts = _texts(length, calls)
        for text in texts[:100]:
            ada.route(text)
        result["route"][str(length)] = _percentiles(ada.route, texts)
    result["route"]["the same 60"] = _percentiles(ada.route, _texts(60, 1) * calls)
    result["disk_mb"] = round(sum(path.stat().st_size for path in directory.iterdir()) / 1e6, 2)
    imported, added = _memory(directory)
    result["resident_mb"] = {"numpy_and_onnxruntime": imported, "with_tinyada": added}
    if encoder:
        result["minilm_int8"] = {}
        run = minilm_session()
        for length in LENGTHS[:2]:
            result["minilm_int8"][str(length)] = _percentiles(run, _texts(length, 40))
            ratio = result["minilm_int8"][str(length)]["p50"] / result["route"][str(length)]["p50"]
            result["minilm_int8"][str(length)]["times_slower"] = round(ratio)
    return result


def minilm_session() -> Callable[[str], object]:
    """One decision's worth of all-MiniLM-L6-v2: tokenise (256 at most) and run, 8-bit weights, one thread."""
    import onnx
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from tokenizers import Tokenizer
    from transformers import AutoModel

    from router.training.teacher import minilm_directory

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = AutoModel.from_pretrained(minilm_directory(), attn_implementation="eager")

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            return hidden

    with tempfile.TemporaryDirectory() as folder:
        plain, small = f"{folder}/plain.onnx", f"{folder}/small.onnx"
        example = (torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.long))
        names = ["input_ids", "attention_mask"]
        axes = {name: {0: "batch", 1: "tokens"} for name in names}
        torch.onnx.export(
            Encoder().eval(),
            example,
            plain,
            input_names=names,
            output_names=["hidden"],
            dynamic_axes=axes,
            dynamo=False,
        )
        onnx.checker.check_model(plain)
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(f"{minilm_directory()}/tokenizer.json")
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()

    def run(text: str) -> object:
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        return session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]

    return run


def _texts(length: int, count: int) -> list[str]:
    """``count`` texts of ``length`` characters (less the last word's part), each from elsewhere in the prompts."""
    files = sorted(path for path in PROMPTS.glob("*.jsonl") if not path.name.startswith(("conv", "outlier")))
    text = " ".join(row.text for path in files for row in read(path))
    text *= 1 + (length + 97 * (count + 10)) // len(text)
    starts = [text.index(" ", 97 * i) + 1 for i in range(count)]
    return [text[start : start + length].rsplit(" ", 1)[0] for start in starts]


def _percentiles(call: Callable[[str], object], texts: list[str]) -> dict[str, float]:
    times = []
    for text in texts:
        began = time.perf_counter_ns()
        call(text)
        times.append((time.perf_counter_ns() - began) / 1000)
    return {f"p{q}": round(float(np.percentile(times, q)), 1) for q in (50, 90, 99)}


def _memory(directory: Path) -> tuple[float, float]:
    """Megabytes that a fresh process grows by: after importing numpy and onnxruntime, and after routing."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _MEMORY, root, str(directory)]
    imported, added = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return round(float(imported), 1), round(float(added), 1)


def table(result: dict[str, Any]) -> str:
    """The figures for people, as Markdown."""
    lines = ["| text | p50 µs | p90 | p99 | MiniLM-L6 int8 p50 µs | times |", "|---|---|---|---|---|---|"]
    for length, cost in result["route"].items():
        other = result.get("minilm_int8", {}).get(length, {})
        lines.append(
            f"| {length} characters | {cost['p50']} | {cost['p90']} | {cost['p99']} "
            f"| {other.get('p50', '')} | {other.get('times_slower', '')} |"
        )
    lines.append(f"\non disk {result['disk_mb']} MB; resident {result['resident_mb']} MB added to an empty process")
    return "\n".join(lines)


def section(result: dict[str, Any]) -> str:
    """The model card's section of costs."""
    command = "`python -m router.training.bench`, one core"
    note = f"measured with TinyAda {result['digest']}"
    return f"## Cost\n{command}, {note}\n\n{table(result)}\n\n"


def renew(card: Path, result: dict[str, Any]) -> None:
    """Replace the card's section of costs. Raises `RouterError` where it has none."""
    text = card.read_text(encoding="utf-8")
    renewed, count = re.subn(r"## Cost\n.*?(?=^## )", lambda _: section(result), text, flags=re.DOTALL | re.MULTILINE)
    if count != 1:
        raise RouterError(f"{card} has no section '## Cost'; make it anew: python -m router.training.card")
    card.write_text(renewed, encoding="utf-8")


def keep(weights: Path, result: dict[str, Any]) -> None:
    """Put the costs beside the figures in the manifest, where the gateway's console finds them."""
    manifest = read_manifest(weights)
    evaluation = {**manifest.trained.get("evaluation", {}), "cost": result}
    write_manifest(weights, replace(manifest, trained={**manifest.trained, "evaluation": evaluation}))


if __name__ == "__main__":
    import typer

    def main(weights: Path | None = None, out: Path = BENCH, encoder: bool = True) -> None:
        found = bench(weights, encoder=encoder)
        print(table(found))
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if out == BENCH:
            renew(CARD, found)
            keep(SHIPPED, found)

    typer.run(main)
