"""Recording rules and alerts: their unit tests, and a runbook for each."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
ALERTS = {
    rule["alert"]: rule
    for file in RULES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


@pytest.mark.parametrize("arguments", [["check", "rules", *map(str, RULES)], ["test", "rules", "tests.yml"]])
def test_promtool_passes(arguments: list[str]) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_made_to_fire() -> None:
    tests = yaml.safe_load((PROMETHEUS / "tests.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == ALERTS.keys()
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_its_runbook_is_a_section_of_the_readme(alert: str) -> None:
    headings = [
        line.lstrip("# ").lower() for line in (DEPLOY / "README.md").read_text().splitlines() if line[:1] == "#"
    ]
    anchors = {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}
    file, _, anchor = ALERTS[alert]["annotations"]["runbook"].partition("#")
    assert file == "deploy/README.md"
    assert anchor in anchors
