"""`python -m server` is the `zephyra` command."""

from server.cli import app

app()
