"""Take an adapter that was trained elsewhere, through the same checks as our own."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from adapters.validation import CONFIG, MAX_RANK, WEIGHTS, AdapterFacts, base_digest, check_name, validate


def import_adapter(
    source: Path, out: Path, base: str, domain: str | None = None, max_rank: int = MAX_RANK
) -> AdapterFacts:
    """Copy the adapter in `source` to the new directory `out`, whose name becomes the adapter's, with a manifest.

    Checked against `base` first; `out` appears whole or not at all. Raises `adapters.validation.AdapterError` for what
    an engine would refuse, `FileExistsError` if `out` is there.
    """
    check_name(out.name)
    if out.exists():
        raise FileExistsError(f"{out} exists: adapters are not overwritten, choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".import-") as work:
        whole = Path(work) / out.name
        whole.mkdir()
        validate(source, base, max_rank)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(source / name, whole / name)
        # Check the copy, which is what will be served: the source may have changed meanwhile.
        facts = validate(whole, base, max_rank)
        manifest = {
            "domain": domain,
            "base": Path(base).name if Path(base).is_dir() else base,
            "base_digest": base_digest(base),
            "rank": facts.rank,
            "bytes": facts.bytes,
            "imported": True,
        }
        (whole / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        os.rename(whole, out)
    return facts
