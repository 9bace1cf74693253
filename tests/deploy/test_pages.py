"""What the pages name is there: commands and their options, configuration keys, variables, metrics, files, links."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperGroup

from server.cli import app
from server.settings import Settings, load
from tests.deploy.pages import DEPLOY, PAGES, ROOT, blocks, commands, inline, paragraphs, statements

SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
KEYS = {key for section in SECTIONS.values() for key in section.model_fields}
# Words with an underscore that are of others: PEFT's, OpenAI's.
FOREIGN = {"modules_to_save", "finish_reason"}
# Files that a reader writes.
THEIRS = {"zephyra.toml", "decisions.jsonl", "decisions-1.jsonl", "audit.jsonl"}
FILE = re.compile(r"[\w./-]+\.(py|sh|ya?ml|jsonl?|toml|txt|md|conf|onnx|npz)|[\w./-]+/")

page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def codes(page: Path) -> list[str]:
    """A page's inline code."""
    return [code for paragraph in paragraphs(page) for code in inline(paragraph)]


def given(page: Path, program: str) -> list[list[str]]:
    """The arguments of every call of a program, in whatever block or line; what a synopsis adds is left out."""
    found = [*commands(page), *codes(page)]
    found += [statement for block in blocks(page, "") if f"{program} " in block for statement in statements(block)]
    calls = []
    for command in dict.fromkeys(found):
        match = re.search(rf"(?:^| ){re.escape(program)} (.+)$", command, re.S)
        if match:
            calls.append(shlex.split(re.sub(r"[][]| \.\.\.(?=[] ]|$)", "", match[1]), comments=True))
    return calls


@page
def test_commands_are_known_to_the_command_line(page: Path) -> None:
    for words in given(page, "zephyra"):
        command, rest = typer.main.get_command(app), list(words)
        while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"zephyra {shlex.join(words)}"
            command = command.commands[rest.pop(0)]
        context = command.context_class(command, info_name="zephyra")
        values, left, _ = command.make_parser(context).parse_args(rest)
        assert not left, f"zephyra {shlex.join(words)}: {left}"
        if rest and "help" not in values:
            missing = {param.name for param in command.params if param.required and values.get(str(param.name)) is None}
            assert not missing, f"zephyra {shlex.join(words)}: {missing}"


@page
def test_programs_take_these_options(page: Path) -> None:
    for words in given(page, "python"):
        if words[0] == "-m":
            spec = importlib.util.find_spec(words[1])
            assert spec, words
            source = Path(str(spec.origin)).read_text()
        else:
            source = (ROOT / words[0]).read_text()
        for word in words:
            if word.startswith("--"):
                # Named as such, or typer's name for a parameter.
                parameter = word.removeprefix("--").replace("-", "_")
                assert re.search(rf'"{word}"|[( ]{parameter}: ', source), f"{words}: {word}"


@page
def test_keys_are_those_of_the_configuration(page: Path, tmp_path: Path) -> None:
    for code in codes(page):
        section, _, key = code.partition(".")
        if FILE.fullmatch(code):
            continue
        if section in SECTIONS and re.fullmatch("[a-z_]+", key):
            assert key in SECTIONS[section].model_fields, code
        elif re.fullmatch("[a-z]+(_[a-z]+)+", code) and not code.startswith("zephyra_"):
            assert code in KEYS | FOREIGN, code
        elif match := re.fullmatch(r"\[([a-z]+)\](?: ([a-z_]+).*)?", code):
            assert match[1] in SECTIONS, code
            assert not match[2] or match[2] in SECTIONS[match[1]].model_fields, code
    for block in blocks(page, "toml"):
        file = tmp_path / "zephyra.toml"
        file.write_text(block)
        load(file)


def test_the_page_of_the_configuration_has_every_key() -> None:
    import tomllib

    (block,) = blocks(ROOT / "server" / "README.md", "toml")
    shown = {(section, key) for section, values in tomllib.loads(block).items() for key in values}
    assert {(section, key) for section, model in SECTIONS.items() for key in model.model_fields} <= shown


@page
def test_variables_are_read_somewhere(page: Path) -> None:
    sources = [*DEPLOY.rglob("*"), *(ROOT / "server").glob("*.py"), *(ROOT / "tests").rglob("*.py")]
    read = "\n".join(file.read_text() for file in sources if file.is_file() and file.suffix != ".md")
    for variable in set(re.findall(r"\b(?:ZEPHYRA|COMPOSE|GRAFANA|VLLM|TORCH|HF)_[A-Z_]+\b", page.read_text())):
        if variable.startswith("ZEPHYRA__"):
            _, section, key = variable.lower().split("__")
            assert key in SECTIONS[section].model_fields, variable
        else:
            assert re.search(rf"\b{variable}\b", read), variable


def test_variables_of_compose_are_in_the_example() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    shown = set(re.findall(r"^([A-Z_]+)=", (DEPLOY / ".env.example").read_text(), re.M))
    assert asked - shown == set()
    assert shown - asked == {"COMPOSE_PROJECT_NAME"}


@page
def test_metrics_are_made(page: Path) -> None:
    made = set(re.findall(r'"(zephyra_[a-z_]+)"', "".join(file.read_text() for file in (ROOT / "server").glob("*.py"))))
    for metric in re.findall(r"\bzephyra_[a-z_]+", page.read_text()):
        assert re.sub(r"_(total|bucket|sum|count)?$", "", metric) in made, metric


@page
def test_files_and_links_lead_somewhere(page: Path) -> None:
    names = {file.name for file in page.parent.rglob("*") if ".venv" not in file.parts}
    for code in codes(page):
        if FILE.fullmatch(code) and not code.startswith("/") and code not in THEIRS:
            places = (page.parent, ROOT, ROOT / "tests")
            assert code in names or any((place / code).exists() for place in places), code
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link
