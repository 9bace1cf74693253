"""`zephyra router`: what another TinyAda would have decided on logged traffic."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="TinyAda on logged traffic.")


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
