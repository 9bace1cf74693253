"""Programs of the system that these tests drive; deploy/system.sh installs them."""

import os
import shutil
import socket

import pytest

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def program(name: str) -> str:
    """Its path. Without it the test is skipped, and fails where CI=true."""
    found = shutil.which(name, path=PATH)
    if found is not None:
        return found
    message = f"{name} is not installed: bash deploy/system.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])
