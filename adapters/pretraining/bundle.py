"""Put the shipped bundle together: the base, one adapter per domain, the zero adapter, and the manifest last.

    python -m adapters.pretraining.bundle BASE ADAPTERS OUT [--matrix FILE]

BASE is what adapters.pretraining.base wrote; ADAPTERS holds one trained directory per domain; OUT is replaced.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import typer

from adapters.exams import EXAMS
from adapters.validation import CONFIG, WEIGHTS, base_digest, header, validate
from adapters.version import digest
from adapters.zero import write_zero_adapter

BASE_NAME = "zephyra-base"
MAX_BYTES = 30_000_000


def build_bundle(base: Path, adapters: Path, out: Path, matrix: Path | None = None) -> dict[str, Any]:
    """Check every part, write the bundle beside `out` and swap it in; returns the manifest."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as work:
        whole = Path(work) / "bundle"
        shutil.copytree(base, whole / "base", copy_function=shutil.copyfile)
        entries: dict[str, Any] = {}
        for domain in EXAMS:
            source, target = adapters / domain, whole / domain
            facts = validate(source, str(base))
            target.mkdir()
            shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
            # No path of the machine that trained it is shipped.
            config = json.loads((source / CONFIG).read_text()) | {"base_model_name_or_path": BASE_NAME}
            (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            trained = json.loads((source / "manifest.json").read_text()) | {"base": BASE_NAME}
            (target / "manifest.json").write_text(json.dumps(trained, indent=2) + "\n")
            entries[domain] = {
                "path": domain, "domain": domain, "base_digest": base_digest(str(base)), "rank": facts.rank,
                "digest": digest(target), "held_out_loss": trained["held_out_loss"],
            }  # fmt: skip
        write_zero_adapter(str(whole / "base"), whole / "zero")
        zero = json.loads((whole / "zero" / CONFIG).read_text()) | {"base_model_name_or_path": BASE_NAME}
        (whole / "zero" / CONFIG).write_text(json.dumps(zero, indent=2) + "\n")
        (whole / "zero" / "manifest.json").write_text(json.dumps({"domain": None, "base": BASE_NAME}, indent=2) + "\n")
        facts = validate(whole / "zero", str(base), allow_zero=True)
        entries["zero"] = {"path": "zero", "domain": None, "rank": facts.rank}
        manifest: dict[str, Any] = {
            "base": {
                "path": "base", "name": BASE_NAME, "digest": base_digest(str(base)),
                "parameters": sum(_size(entry) for entry in header(base / "model.safetensors").values()),
            },
            "adapters": entries,
            "bytes": sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()),
        }  # fmt: skip
        if matrix:
            manifest["exams"] = json.loads(matrix.read_text())
        if manifest["bytes"] > MAX_BYTES:
            raise ValueError(f"the bundle is {manifest['bytes']:,} bytes: use a lower rank or a smaller base")
        (whole / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        if out.exists():
            os.rename(out, Path(work) / "old")
        os.rename(whole, out)
    return manifest


def _size(entry: dict[str, Any]) -> int:
    size = 1
    for length in entry["shape"]:
        size *= length
    return size


def main(base: Path, adapters: Path, out: Path, matrix: Path | None = None) -> None:
    manifest = build_bundle(base, adapters, out, matrix)
    print(f"{out}: {manifest['bytes']:,} bytes, adapters {', '.join(manifest['adapters'])}")


if __name__ == "__main__":
    typer.run(main)
