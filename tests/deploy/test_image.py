"""The gateway's image without a Docker engine: the Dockerfile's own steps in a clean directory, and what comes of them.

The gateway is started from there by another user, who can write nothing in the tree.
"""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.programs import free_port
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import PROMPTS
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
LIMIT = 400e6
# python:3.11-slim-bookworm unpacked, as published; not measured here.
BASE_IMAGE = 130e6
NOBODY = 65534


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="zephyra-image-") as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


@pytest.fixture(scope="module")
def image(place: Path) -> Path:
    """What the build stage makes, from what it copies and by what it runs."""
    build = DOCKERFILE.partition("AS build")[2].partition("\nFROM")[0]
    source = place / "source"
    for line in re.findall(r"^COPY (.+)$", build, re.M):
        *names, target = line.split()
        for name in names:
            wanted = source / (target if (ROOT / name).is_dir() else Path(target) / Path(name).name)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, wanted, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                wanted.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, wanted)
    step = re.search(r"^RUN (sh .+) /opt/zephyra$", build, re.M)
    assert step
    environment = {"UV": str(Path(sys.executable).parent / "uv"), "PYTHON": str(_python(place))}
    command = [*step[1].split(), str(place / "opt")]
    done = subprocess.run(command, cwd=source, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    return place / "opt"


def _python(place: Path) -> Path:
    """This interpreter, or a copy of it where other users cannot reach it."""
    prefix, name = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    if all(parent.stat().st_mode & stat.S_IXOTH for parent in (prefix, *prefix.parents)):
        return prefix / "bin" / name
    ignored = shutil.ignore_patterns("site-packages", "test", "tests", "__pycache__", "idlelib", "share", "config-*")
    shutil.copytree(prefix, place / "python", ignore=ignored, symlinks=True)
    return place / "python" / "bin" / name


def _files(tree: Path) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in tree.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            found[path] = (status.st_size, status.st_mtime_ns)
    return found


def test_it_is_small_and_has_no_torch(image: Path) -> None:
    files = _files(image)
    size = sum(size for size, _ in files.values())
    print(f"installed: {size / 1e6:.0f} MB in {len(files)} files")
    assert size + BASE_IMAGE < LIMIT
    packages = {path.name for path in next(image.glob("lib/python*/site-packages")).iterdir()}
    assert {"server", "router", "adapters", "onnxruntime"} <= packages
    assert not packages & {"torch", "vllm", "transformers", "tests"}
    # What compose's service `fetch` begins.
    environment = {"PATH": f"{image}/bin", "LD_LIBRARY_PATH": str(image.parent / "python" / "lib")}
    subprocess.run([image / "bin" / "hf", "download", "--help"], env=environment, check=True, capture_output=True)


def test_it_serves_unprivileged_from_a_tree_it_cannot_write(image: Path, place: Path) -> None:
    before = _files(image)
    for path in (image, *image.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    writable = place / "writable"
    (writable / "store").mkdir(parents=True)
    user: dict[str, int | list[int]] = {}
    if os.getuid() == 0:
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        for path in (writable, writable / "store"):
            os.chown(path, NOBODY, NOBODY)
    port = free_port()
    with Served(FakeEngine()) as engine:
        environment = {
            "PATH": f"{image}/bin",
            # Of a copied interpreter; there is none otherwise.
            "LD_LIBRARY_PATH": str(place / "python" / "lib"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(writable),
            "ZEPHYRA_API_KEYS": "k" * 24,
            "ZEPHYRA__GATEWAY__PORT": str(port),
            "ZEPHYRA__ENGINE__URLS": f'["{engine.url}"]',
            "ZEPHYRA__ENGINE__DEVICE": "cpu",
            "ZEPHYRA__STORE__PATH": str(writable / "store"),
        }
        with (place / "log").open("w") as log:
            process = subprocess.Popen(
                [image / "bin" / "zephyra", "serve"],
                cwd=writable,
                env=environment,
                stdout=log,
                stderr=log,
                **user,  # type: ignore[call-overload]
            )
        try:
            headers = {"authorization": f"Bearer {'k' * 24}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as http:
                wait_until(lambda: process.poll() is not None or _ready(http), 120)
                assert process.poll() is None, (place / "log").read_text()
                body = {"model": "zephyra-resolve", "messages": [{"role": "user", "content": PROMPTS["sql"]}]}
                reply = http.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200
            assert reply.headers["x-zephyra-adapter"].startswith("sql@")
            # The image's health check, with its port.
            check = re.search(r'CMD \["python", "-c", "(.+)"\]', DOCKERFILE)
            assert check
            code = check[1].replace(":8000/", f":{port}/")
            subprocess.run([image / "bin" / "python", "-c", code], check=True, timeout=60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    assert _files(image) == before


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False
