"""What the pages of this repository say: their blocks, their inline code, and the commands among both."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FOLDERS = ("server", "router", "adapters", "deploy")
PAGES = [ROOT / "README.md", *(ROOT / name / "README.md" for name in FOLDERS), DEPLOY / "kubernetes" / "ROUTERS.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# What is a command when it stands within a line.
PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:docker|kubectl|git|make|sed|cp|tar|curl|promtool|zephyra|python|bash|sh|hf)\b.* "
)
# The paragraph that lists commands instead of giving them.
LIST = "**Untried**"


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks in these languages; "" is a block without one."""
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def paragraphs(page: Path) -> list[str]:
    """What stands outside of blocks."""
    return re.split(r"\n\s*\n", FENCE.sub("", page.read_text()))


def inline(text: str) -> list[str]:
    """The inline code of a text, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def statements(block: str) -> Iterator[str]:
    """A shell block's statements: what goes over several lines, such as a loop, is one."""
    lines: list[str] = []
    for line in block.splitlines():
        if not lines and (not line.strip() or line.startswith("#")):
            continue
        lines.append(line)
        if line.endswith("\\"):
            continue
        statement = "\n".join(lines)
        if subprocess.run(["bash", "-n"], input=statement, text=True, capture_output=True).returncode == 0:
            yield statement
            lines.clear()
    assert not lines, f"no shell reads this: {lines}"


def of_kind(page: Path, pattern: str) -> list[str]:
    """The page's commands that begin like this, at least one."""
    found = [command for command in commands(page) if re.match(pattern, command)]
    assert found, f"{page} has no more commands that match {pattern}"
    return found


def commands(page: Path) -> list[str]:
    """Every command that a page tells its reader to give, in the page's order of blocks, then of lines."""
    found = [statement for block in blocks(page, "sh") for statement in statements(block)]
    for paragraph in paragraphs(page):
        if not paragraph.startswith(LIST):
            found += [code for code in inline(paragraph) if PROGRAM.match(f"{code} ") and " " in code]
    return found
