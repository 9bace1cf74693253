"""The guard: a killed gateway takes the engine's whole process group with it, and an engine's status comes through."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

GUARD = [sys.executable, "-m", "server.guard"]
# A process that starts a child of its own, prints its pid and waits, as the engine's API server does.
FAMILY = "import subprocess,sys,time; c=subprocess.Popen(['sleep','60']); print(c.pid, flush=True); time.sleep(60)"


def start() -> tuple["subprocess.Popen[bytes]", list[psutil.Process]]:
    guard = subprocess.Popen(
        [*GUARD, sys.executable, "-c", FAMILY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert guard.stdout is not None
    inner = psutil.Process(int(guard.stdout.readline()))
    return guard, [*psutil.Process(guard.pid).children(recursive=True), inner]


def wait_gone(family: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 10
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family):
        assert time.monotonic() < deadline, "a process outlived its guard"
        time.sleep(0.05)


def test_closed_pipe_ends_the_whole_group() -> None:
    guard, family = start()
    assert guard.stdin is not None
    guard.stdin.close()
    assert guard.wait(10) == -signal.SIGKILL
    wait_gone(family)
    assert guard.stdout is not None
    guard.stdout.close()


def test_terminate_goes_on_to_the_engine() -> None:
    guard, family = start()
    guard.terminate()
    assert guard.wait(10) != 0
    os.killpg(guard.pid, signal.SIGKILL)
    wait_gone(family)
    assert guard.stdin is not None
    assert guard.stdout is not None
    guard.stdin.close()
    guard.stdout.close()


@pytest.mark.parametrize("status", [0, 3])
def test_status_comes_through(status: int) -> None:
    command = [*GUARD, sys.executable, "-c", f"raise SystemExit({status})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as guard:
        assert guard.wait(20) == status
