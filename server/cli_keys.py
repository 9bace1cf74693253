"""`zephyra keys`: create, list and disable API keys."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from server.keys import Key, digest, new_key, read_keys, write_keys
from server.settings import SettingsError

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, disable.")

File = Annotated[Path, typer.Option("--file", help="The key file that access.keys_file names.")]
DEFAULT = Path("zephyra-keys.json")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: File = DEFAULT,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; repeat for more [all].")] = None,
    requests_per_minute: Annotated[int | None, typer.Option()] = None,
    tokens_per_minute: Annotated[int | None, typer.Option()] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Requests at a time.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option()] = None,
    max_prompt_bytes: Annotated[int | None, typer.Option()] = None,
    max_output_tokens: Annotated[int | None, typer.Option()] = None,
    may_bypass: Annotated[bool, typer.Option("--may-bypass", help="May skip TinyAda by header.")] = False,
    may_observe: Annotated[bool, typer.Option("--may-observe", help="May read /metrics.")] = False,
) -> None:
    """Make a key and print it once; the file keeps its hash only."""
    plain = new_key()
    try:
        keys = read_keys(file) if file.exists() else []
        if any(key.name == name for key in keys):
            raise SettingsError(f"{file} has a key named {name!r} already; choose another name")
        key = Key(
            name=name,
            sha256=digest(plain),
            models=frozenset(model) if model else None,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_concurrent=max_concurrent,
            max_body_bytes=max_body_bytes,
            max_prompt_bytes=max_prompt_bytes,
            max_output_tokens=max_output_tokens,
            may_bypass=may_bypass,
            may_observe=may_observe,
        )
        write_keys(file, [*keys, key])
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        _fail(f"{finding['loc'][0]}: {finding['msg']}")
    except SettingsError as error:
        _fail(str(error))
    typer.echo(plain)
    typer.echo(
        f"zephyra: {name} added to {file}; the key is not shown again. A running gateway reads it at once.", err=True
    )


@app.command("list")
def list_keys(file: File = DEFAULT) -> None:
    """Show the keys' names, models and limits."""
    for key in _read(file):
        limits = key.model_dump(exclude={"name", "sha256", "models"}, exclude_defaults=True)
        models = ",".join(sorted(key.models)) if key.models is not None else "all models"
        shown = "  ".join(f"{name}={value}" for name, value in limits.items())
        typer.echo(f"{key.name:20} {models}  {shown}".rstrip())


@app.command()
def disable(name: Annotated[str, typer.Argument(help="Whose key.")], file: File = DEFAULT) -> None:
    """Refuse a key from now on; it keeps its place in the file."""
    keys = _read(file)
    if all(key.name != name for key in keys):
        _fail(f"{file} has no key named {name!r}")
    write_keys(file, [key.model_copy(update={"disabled": True}) if key.name == name else key for key in keys])
    typer.echo(f"zephyra: {name} is disabled in {file}", err=True)


def _read(file: Path) -> list[Key]:
    try:
        return read_keys(file)
    except SettingsError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.echo(f"zephyra: {message}", err=True)
    raise typer.Exit(2)
