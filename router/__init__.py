"""TinyAda: reads a prompt on the CPU and picks the domain that should answer it."""

from router.added import AddedDomain
from router.decision import GENERAL, Decision
from router.errors import RouterError
from router.model import TinyAda

__all__ = ["GENERAL", "AddedDomain", "Decision", "RouterError", "TinyAda"]
