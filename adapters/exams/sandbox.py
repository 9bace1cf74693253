"""Running a model's Python in a subprocess that can neither import, open files, nor outlast its limits.

Three fences: the source is parsed and refused if it imports or names dunders; the child runs with `-I -S`, little
memory, little time and an empty directory; an audit hook ends it at any file, socket, process or import event.
"""

import ast
import subprocess
import sys
import tempfile

SECONDS = 2
MEMORY = 256 * 1024 * 1024

_CHILD = f"""
import builtins, os, resource, sys
source = sys.stdin.read()
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
code = compile(source, "answer", "exec")
refused = ("open", "import", "exec", "compile", "socket", "subprocess", "os.", "ctypes", "shutil", "sys._getframe")
stop, run, started = os._exit, exec, []
def fence(event, arguments):
    if event == "exec" and not started:
        started.append(True)
    elif event.startswith(refused):
        stop(3)
sys.addaudithook(fence)
names = "abs all any bool dict divmod enumerate filter float int len list map max min pow range reversed round set"
names += " sorted str sum tuple zip True False None AssertionError ValueError TypeError Exception"
run(code, {{"__builtins__": {{name: getattr(builtins, name) for name in names.split() if hasattr(builtins, name)}}}})
"""


def allowed(source: str) -> bool:
    """Whether `source` parses and neither imports nor reaches for dunder names."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            return False
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name.startswith("__") or (isinstance(node, ast.Attribute) and name.startswith("_")):
            return False
    return True


def run_asserts(source: str, asserts: list[str]) -> bool:
    """Whether `source` runs and every assert holds, within time and memory. False for anything else."""
    if not source.strip() or not allowed(source):
        return False
    program = "\n".join([source, *asserts])
    with tempfile.TemporaryDirectory() as directory:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _CHILD],
                input=program.encode(errors="replace"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS + 8,
                cwd=directory,
                env={},
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0
