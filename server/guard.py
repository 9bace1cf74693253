"""Runs the engine and dies with the gateway: `python -m server.guard COMMAND...`.

Standard input is a pipe whose other end only the gateway holds. When it closes, however the gateway ended, the whole
process group is killed: vLLM's inner processes would otherwise outlive a killed parent. The command's status is ours.
"""

import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; SIGTERM goes on to it. Returns its exit status."""
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: engine.terminate())
    threading.Thread(target=_end_with_gateway, daemon=True).start()
    return engine.wait()


def _end_with_gateway() -> None:
    # Not through sys.stdin: its lock, held here, would break the interpreter's own end.
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) & 0xFF)
