"""`python -m server` is the `zephyra` command."""

from server.cli import app

# Each worker of `--workers` imports this module again.
if __name__ == "__main__":
    app()
