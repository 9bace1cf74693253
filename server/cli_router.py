"""`zephyra router`: a running gateway's TinyAda, and what another would have decided on logged traffic."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from server.admin_client import GATEWAY, Url, ask

app = typer.Typer(no_args_is_help=True, help="TinyAda while it serves, and on logged traffic.")

Directory = Annotated[Path, typer.Argument(help="A directory that training wrote, on the gateway's machine.")]


@app.command()
def show(url: Url = GATEWAY) -> None:
    """What serves, what is compared with it, and which adapter answers each domain."""
    view = ask(url, "GET", "/router")
    _serves(view)
    if view["problem"]:
        typer.echo(f"  problem: {view['problem']}")
    for domain in view["domains"]:
        threshold = f"from {domain['threshold']}" if domain["threshold"] is not None else ""
        typer.echo(f"  {domain['domain']:10} {domain['adapter'] or 'the base':16} {threshold}".rstrip())
    if view["shadow"]:
        shadow = view["shadow"]
        counts = ", ".join(f"{shadow[name]} {name}" for name in ("compared", "disagreed", "dropped"))
        typer.echo(f"  shadow {shadow['digest']}: {counts}")


@app.command()
def swap(path: Directory, url: Url = GATEWAY) -> None:
    """Put another TinyAda in place, checked first; what is wrong with it leaves the old one serving."""
    _serves(ask(url, "POST", "/router", {"path": str(path.resolve())}))


@app.command()
def rollback(url: Url = GATEWAY) -> None:
    """Back to the TinyAda before the last swap."""
    _serves(ask(url, "POST", "/router/rollback"))


@app.command()
def shadow(
    path: Annotated[Path | None, typer.Argument(help="Directory of the other TinyAda; none ends it.")] = None,
    url: Url = GATEWAY,
) -> None:
    """Let another TinyAda decide beside the one that serves; disagreement is counted, nothing else changes."""
    if path is None:
        ask(url, "DELETE", "/router/shadow")
        typer.echo("no TinyAda is compared")
        return
    view = ask(url, "PUT", "/router/shadow", {"path": str(path.resolve())})
    typer.echo(f"TinyAda {view['shadow']['digest']} decides in the shadow of {view['digest']}")


def _serves(view: dict[str, Any]) -> None:
    before = f"; before it, {view['previous']}" if view["previous"] else ""
    typer.echo(f"TinyAda {view['digest']} serves{before}")


@app.command()
def replay(
    log: Annotated[Path, typer.Option(help="A decision log written with decisions.prompts = true.")],
    router: Annotated[Path, typer.Option(help="Directory of the other TinyAda's weights.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the ids of all that changed.")] = False,
) -> None:
    """Decide a log's conversations anew and show what would change."""
    from router import RouterError, TinyAda
    from server import decisions

    if not log.exists():
        typer.echo(f"zephyra: {log} does not exist", err=True)
        raise typer.Exit(2)
    try:
        classifier = TinyAda.load(router)
    except RouterError as error:
        typer.echo(f"zephyra: {error}", err=True)
        raise typer.Exit(2) from None
    lines = (line for path in decisions.log_files(log) for line in path.read_bytes().splitlines())
    found = decisions.replay(lines, classifier)
    moves = [(then, now, count) for (then, now), count in found.served.most_common() if then != now]
    if as_json:
        summary = {"replayed": found.replayed, "skipped": found.skipped, "agreement": found.agreement}
        typer.echo(json.dumps({**summary, "moves": moves, "changed": found.changed}))
        return
    typer.echo(f"{found.replayed} decisions replayed, {found.skipped} lines without a prompt passed over")
    typer.echo(f"{found.agreement:.2%} stay where they were")
    for then, now, count in moves:
        typer.echo(f"  {then:10} -> {now:10} {count}")
