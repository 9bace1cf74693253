"""What the command line asks of a running gateway's /admin."""

import json
import os
import urllib.error
import urllib.request
from typing import Annotated, Any, NoReturn

import typer

from server.settings import ADMIN_KEY_VARIABLE

Url = Annotated[str, typer.Option(envvar="ZEPHYRA_URL", help="The gateway.")]
GATEWAY = "http://127.0.0.1:8000"
# A publication with --wait lasts as long as loading and verifying do.
WAIT_SECONDS = 660.0


def ask(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One request to /admin; ends the program with the gateway's own message where it is refused."""
    headers = {"content-type": "application/json"}
    key = os.environ.get(ADMIN_KEY_VARIABLE)
    if key:
        headers["authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{url.rstrip('/')}/admin{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            fail(_message(error))
    except (OSError, ValueError) as error:
        fail(f"no gateway answers at {url}: {getattr(error, 'reason', error)}; name it with --url")


def fail(message: str) -> NoReturn:
    """End the program with a message."""
    typer.echo(f"zephyra: {message}", err=True)
    raise typer.Exit(1)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {error.code}"
