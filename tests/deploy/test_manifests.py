"""What stands in for a Docker engine and a cluster: linters, schemas, and one set of flags."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.settings import EngineSettings, load
from server.supervisor import engine_command
from tests.deploy.programs import program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = Path(sys.executable).parent
MANIFESTS = sorted(file for file in (DEPLOY / "kubernetes").glob("*.yaml") if file.name != "kustomization.yaml")
KEYS = ("ZEPHYRA_KEYS", "ZEPHYRA_OBSERVE_KEY", "ZEPHYRA_ADMIN_KEY", "GRAFANA_PASSWORD")
# Oldest and newest of the Kubernetes versions that are held up.
KUBERNETES = ("1.31", "1.36")


def compose(profile: str = "cuda") -> dict[str, Any]:
    """The compose file as docker-compose understands it."""
    environment = {**os.environ, **dict.fromkeys(KEYS, "k" * 24), "COMPOSE_PROFILES": profile}
    command = [program("docker-compose"), "--env-file", ".env.example", "-f", "compose.yaml", "config"]
    done = subprocess.run(command, cwd=DEPLOY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


def documents() -> list[dict[str, Any]]:
    return [document for file in MANIFESTS for document in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str, name: str) -> dict[str, Any]:
    return next(found for found in documents() if found["kind"] == kind and found["metadata"]["name"] == name)


def flags(arguments: list[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}


@pytest.mark.parametrize("file", ["Dockerfile", "engine-cpu.Dockerfile"])
def test_hadolint(file: str) -> None:
    done = subprocess.run([SCRIPTS / "hadolint", DEPLOY / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck() -> None:
    scripts = [*DEPLOY.glob("*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run([SCRIPTS / "shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_fit_the_schemas(file: Path, version: str) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_does_not_fit() -> None:
    document = of_kind("Deployment", "vllm")
    document["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES[0], strict=True)


def test_images_install_what_is_tested() -> None:
    tested = set((DEPLOY / "locks" / "cpu.txt").read_text().splitlines())
    for lock in ("gateway.txt", "engine-cpu.txt"):
        assert not set((DEPLOY / "locks" / lock).read_text().splitlines()) - tested
    assert not re.search(r"^(torch|vllm)", (DEPLOY / "locks" / "gateway.txt").read_text(), re.M)


@pytest.mark.parametrize("where", ["engine", "engine-cpu", "kubernetes"])
def test_every_engine_is_started_as_ours_is(where: str) -> None:
    ours = flags(engine_command(EngineSettings(device="cpu"), "base", Path("socket"), 1, 8)) - {"--uds", "--dtype"}
    if where == "kubernetes":
        container = of_kind("Deployment", "vllm")["spec"]["template"]["spec"]["containers"][0]
        found, image = flags(container["args"]), container["image"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
    else:
        service = compose("cpu" if where == "engine-cpu" else "cuda")["services"][where]
        found, image, environment = flags(service["command"].split()), service["image"], service["environment"]
        assert list(service["networks"]) == ["engine"]
        assert not service.get("ports")
        assert "/store:ro" in str(service["volumes"])
    if where != "engine-cpu":
        ours -= {"--kv-cache-memory-bytes"}
        version = re.search(r"vllm==([\d.]+)", (ROOT / "pyproject.toml").read_text())
        assert version
        assert image == f"vllm/vllm-openai:v{version[1]}"
    assert ours <= found
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "VLLM_LORA_RESOLVER_CACHE_DIR" not in environment


def test_the_compose_gateway_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compose("cpu")
    gateway = found["services"]["gateway"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert found["networks"]["engine"]["internal"] is True
    assert found["services"]["engine"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    # The gateway takes its variables as they are.
    for name, value in gateway["environment"].items():
        monkeypatch.setenv(name, str(value))
    settings = load()
    assert settings.engine.sources == ("dns+http://engine:8000",)
    assert (settings.engine.device, settings.engine.max_loras, settings.engine.max_lora_rank) == ("cpu", 9, 16)
    assert len(settings.adapters) == 7


def test_compose_asks_for_keys() -> None:
    command = [program("docker-compose"), "--env-file", ".env.example", "-f", "compose.yaml", "config"]
    environment = {name: value for name, value in os.environ.items() if name not in KEYS}
    done = subprocess.run(command, cwd=DEPLOY, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "set ZEPHYRA_KEYS in deploy/.env" in done.stderr


def test_the_cluster_s_configuration_is_one(tmp_path: Path) -> None:
    file = tmp_path / "zephyra.toml"
    file.write_text(of_kind("ConfigMap", "zephyra-gateway")["data"]["zephyra.toml"])
    settings = load(file)
    service = of_kind("Service", "vllm-headless")
    assert service["spec"]["clusterIP"] == "None"
    assert settings.engine.sources == (f"dns+http://vllm-headless:{service['spec']['ports'][0]['port']}",)
    arguments = of_kind("Deployment", "vllm")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--max-loras={settings.engine.max_loras}" in arguments
    assert f"--max-cpu-loras={settings.engine.max_cpu_loras}" in arguments
    assert f"--max-lora-rank={settings.engine.max_lora_rank}" in arguments
    allowed = of_kind("NetworkPolicy", "vllm")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert allowed == of_kind("Deployment", "zephyra-gateway")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("PersistentVolumeClaim", "zephyra-store")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_dashboards_are_what_the_code_makes() -> None:
    done = subprocess.run(
        [sys.executable, "deploy/grafana/build.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")), ids=lambda file: file.stem)
def test_dashboards_fit_grafana_s_schema(file: Path) -> None:
    """Read by the classes that are generated from Grafana's schema, and written again: nothing unknown is in it."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    content = json.loads(file.read_text())
    again = json.loads(json.dumps(Dashboard.from_json(content), cls=JSONEncoder))
    for panel in content["panels"]:
        # What it may leave out it writes as empty.
        if panel["type"] != "stat":
            panel["fieldConfig"]["defaults"].setdefault("custom", {})
    assert again == content
    titles = [panel["title"] for panel in content["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in content["panels"]:
        assert panel["title"].endswith("?")
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
    variables = {variable["name"] for variable in content["templating"]["list"]}
    used = set(re.findall(r"\$(instance|adapter|engine)\b", json.dumps(content["panels"])))
    assert used == variables - {"datasource"}
