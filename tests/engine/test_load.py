"""A short run of the mixed load against the whole system: no request fails."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import ROOT, System

SECONDS = 20


@pytest.mark.timeout(300)
def test_mixed_load_without_a_failed_request(system: System, tmp_path: Path) -> None:
    system.wait_ready()
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "--headless"]
    command += ["--host", system.url, "-u", "4", "-r", "4", "-t", f"{SECONDS}s", "--stop-timeout", "60"]
    command += ["--only-summary", "--csv", str(tmp_path / "load")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZEPHYRA_")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    # Locust ends with 1 where any request failed.
    assert run.returncode == 0, run.stdout + run.stderr
    with (tmp_path / "load_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert int(rows["Aggregated"]["Failure Count"]) == 0
    for name in ("whole", "stream", "bypass", "first token", "gateway, on", "gateway, off"):
        assert int(rows[name]["Request Count"]) > 0, name
    assert "gateway's own time: " in run.stdout
