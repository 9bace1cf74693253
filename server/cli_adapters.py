"""`zephyra adapters`: the adapters of a running gateway, through its /admin."""

import json
import urllib.parse
from pathlib import Path
from typing import Annotated, Any

import typer

from server.admin_client import GATEWAY, Url, ask, fail

app = typer.Typer(no_args_is_help=True, help="List, publish, route, roll back and remove a running gateway's adapters.")

Name = Annotated[str, typer.Argument(help="The adapter's public name.")]


@app.command("list")
def list_adapters(url: Url = GATEWAY) -> None:
    """Every adapter with its versions, phases and shares."""
    for adapter in _ask(url, "GET", "")["adapters"]:
        typer.echo(f"{adapter['name']}  domain {adapter['domain'] or 'none'}")
        for version in adapter["versions"]:
            share = f"weight {version['weight']}" if version["weight"] else ""
            line = (
                f"  {version['version']}  {version['phase']:10} {version['since'][:19]}  {share:11} {version['reason']}"
            )
            typer.echo(line.rstrip())


@app.command()
def publish(
    name: Name,
    path: Annotated[Path, typer.Argument(help="Directory with the adapter's files, on the gateway's machine.")],
    domain: Annotated[str | None, typer.Option(help="The domain of TinyAda it is to serve.")] = None,
    examples: Annotated[
        Path | None, typer.Option(help="16 or more prompts, one JSON object a line, for a domain TinyAda lacks.")
    ] = None,
    activate: Annotated[bool, typer.Option(help="Give it the whole route once it is verified.")] = True,
    wait: Annotated[bool, typer.Option(help="Return only once it is verified.")] = True,
    url: Url = GATEWAY,
) -> None:
    """Publish a version: checked, loaded on every engine, verified there, then routed to."""
    body: dict[str, Any] = {"path": str(path.resolve()), "domain": domain, "activate": activate}
    if examples is not None:
        body["examples"] = _prompts(examples)
    outcome = _ask(url, "POST", f"/{_quoted(name)}/versions?wait={str(wait).lower()}", body)
    typer.echo(f"{outcome['adapter']}@{outcome['version']}  {outcome['phase']}  {outcome['reason']}".rstrip())


@app.command()
def route(
    name: Name,
    weights: Annotated[list[str], typer.Argument(help="VERSION, or VERSION=WEIGHT several times.")],
    url: Url = GATEWAY,
) -> None:
    """Send requests to one version, or share them between several."""
    shares: dict[str, int] = {}
    for text in weights:
        version, _, weight = text.partition("=")
        if not (weight or "100").isdecimal():
            fail(f"{text}: write VERSION=WEIGHT with a whole number, e.g. 3f2a9c01d7e4=95")
        shares[version] = int(weight or 100)
    _show(_ask(url, "PUT", f"/{_quoted(name)}/route?wait=true", {"weights": shares}))


@app.command()
def rollback(name: Name, url: Url = GATEWAY) -> None:
    """Back to the route before the last change."""
    _show(_ask(url, "POST", f"/{_quoted(name)}/rollback?wait=true"))


@app.command()
def remove(
    name: Name,
    version: Annotated[str | None, typer.Argument(help="One version; without it, the whole adapter.")] = None,
    url: Url = GATEWAY,
) -> None:
    """Remove an adapter, or one version that is not served."""
    _ask(url, "DELETE", f"/{_quoted(name)}" + (f"/versions/{_quoted(version)}" if version else ""))
    typer.echo(f"{name}{'@' + version if version else ''} drains and is then removed")


def _prompts(path: Path) -> list[str]:
    """The `text` or `prompt` of each line of a JSONL file."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [str(row.get("text") or row["prompt"]) for row in rows]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        fail(f"{path}: each line must be a JSON object with 'text' or 'prompt' ({error!r})")


def _show(adapter: dict[str, Any]) -> None:
    shares = ", ".join(f"{version} {weight}" for version, weight in adapter["route"].items()) or "nothing"
    typer.echo(f"{adapter['name']} is served by {shares}")


def _ask(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return ask(url, method, f"/adapters{path}", body)


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
