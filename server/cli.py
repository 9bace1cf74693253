"""The `zephyra` command."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server import cli_adapters, cli_keys, cli_router, cli_training
from server.settings import LOG_FORMAT, Settings, SettingsError, load

if TYPE_CHECKING:
    from server.gateway import Gateway
    from server.workers import Worker

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
cli_training.router.add_typer(cli_router.app)
cli_adapters.app.add_typer(cli_training.adapters)
app.add_typer(cli_training.router, name="router")
app.add_typer(cli_adapters.app, name="adapters")
app.add_typer(cli_keys.app, name="keys")


@app.callback()
def main() -> None:
    """Zephyra: many domain experts out of one base model."""


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="A zephyra.toml; without one the shipped base is served.")] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Use an engine that already runs: http://host:port or unix:/path."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000].")] = None,
    keys: Annotated[Path | None, typer.Option(help="A file of API keys, made by `zephyra keys create`.")] = None,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Serve beyond this machine without API keys.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Gateway processes behind the one address [1].")] = None,
    verbose: Annotated[bool, typer.Option(help="Log more.")] = False,
) -> None:
    """Start the gateway, and an engine where none is named."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    gateway: dict[str, Any] = {}
    if host is not None:
        gateway["host"] = host
    if port is not None:
        gateway["port"] = port
    if workers is not None:
        gateway["workers"] = workers
    overrides: dict[str, dict[str, Any]] = {"gateway": gateway}
    access: dict[str, Any] = {}
    if keys is not None:
        access["keys_file"] = keys
    if allow_anonymous:
        access["allow_anonymous"] = True
    overrides["access"] = access
    if engine:
        overrides["engine"] = {"urls": engine}
    try:
        run(load(config, overrides))
    except SettingsError as error:
        typer.echo(f"zephyra: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def route(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    path: Annotated[Path | None, typer.Option(help="A TinyAda other than the shipped one.")] = None,
) -> None:
    """Show what TinyAda decides for a prompt."""
    from router import TinyAda

    decision = TinyAda.load(path).route(text)
    typer.echo(f"{decision.domain}  confidence {decision.confidence:.3f}  {decision.reason}")
    for domain, score in sorted(decision.scores.items(), key=lambda item: -item[1]):
        typer.echo(f"  {domain:10} {score:.4f} {'#' * round(score * 40)}")


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises `SettingsError` before anything is started."""
    from server.access import Access, check_listening
    from server.gateway import check

    access = Access.of(settings.access)
    check_listening(settings.access, settings.gateway.host, access)
    check(settings)
    listener = listen(settings.gateway.host, settings.gateway.port, shared=settings.gateway.workers > 1)
    print(f"zephyra: opening the gateway on {address_of(listener)}", flush=True)
    if access.open:
        reach = (
            "anyone who reaches this address" if settings.access.allow_anonymous else "programs on this machine only"
        )
        print(f"zephyra: no API key is configured: {reach} may use it (`zephyra keys create`)", flush=True)
    if settings.gateway.workers > 1:
        from server.workers import run_workers

        run_workers(settings, serve_worker, *listener.getsockname()[:2])
        listener.close()
    else:
        serve_app(settings, listener)
    print("zephyra: stopped", flush=True)


def serve_worker(settings: Settings, worker: "Worker", host: str, port: int) -> None:
    """Serve as one of several workers."""
    listener = bind(host, port)
    listener.listen(2048)
    serve_app(settings, listener, worker)


def serve_app(settings: Settings, listener: socket.socket, worker: "Worker | None" = None) -> None:
    """Serve on a listening socket until SIGINT or SIGTERM."""
    import uvicorn

    from server.app import create_app
    from server.protocol import BoundedProtocol

    tasks: set[asyncio.Task[None]] = set()

    def announce(gateway: "Gateway") -> None:
        # What lives as long as the process need not be looked at by every garbage collection.
        gc.collect()
        gc.freeze()
        if worker is None or worker.first:
            tasks.add(asyncio.create_task(announce_ready(gateway, address_of(listener))))

    config = uvicorn.Config(
        create_app(settings, announce, worker),
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        # The application trusts forwarded addresses itself, off the hot path.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=round(settings.gateway.shutdown_grace),
    )
    # uvicorn raises the signal again once it has stopped: here that means a normal end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        uvicorn.Server(config).run([listener])


def listen(host: str, port: int, shared: bool = False) -> socket.socket:
    """A listening socket; `shared`: one that only holds the address, for workers that listen there themselves.

    Raises `SettingsError` where the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        if not shared:
            return listener
        # Where something else listens there, the line above fails; a shared binding would not.
        host, port = listener.getsockname()[:2]
        listener.close()
        return bind(host, port)
    except OSError as error:
        raise SettingsError(
            f"gateway.host, gateway.port: cannot listen on {host}:{port}: {error.strerror or error}; "
            "stop what uses it or name another, e.g. --port 8001"
        ) from error


def bind(host: str, port: int) -> socket.socket:
    """A socket bound where others of ours are bound too: the system spreads connections over those that listen."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def address_of(listener: socket.socket) -> str:
    """The URL of a socket's address."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def announce_ready(gateway: "Gateway", address: str) -> None:
    """Print what is awaited until ready, then the URL and a call to paste."""
    began = time.monotonic()
    shown: list[str] = []
    while missing := gateway.missing():
        if missing != shown:
            print(f"zephyra: waiting: {'; '.join(missing)} ({time.monotonic() - began:.0f} s)", flush=True)
            shown = missing
        await asyncio.sleep(0.5)
    print(
        f"zephyra: ready after {time.monotonic() - began:.0f} s on {address}\n"
        f"  models: {', '.join(gateway.table.names)}\n  console: {address}/console\n  try:\n"
        f"  curl -i {address}/v1/chat/completions -H 'content-type: application/json' -d '"
        '{"model": "zephyra-resolve", "messages": [{"role": "user", '
        '"content": "What is the usual dose of ibuprofen for a headache?"}]}\'',
        flush=True,
    )
