"""What generations on the disk declare. A generation never changes, so one that is asked for again is parsed once."""

from __future__ import annotations

from functools import lru_cache

from hostctl.agent.generation import Stored
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host


def declaration(stored: Stored) -> HostDeclaration:
    """Return what a generation declares.

    Raises:
        GenerationError: the caller may not read it.
        DeclarationError: it was written for another release, whose declarations were other ones.
    """
    return _parsed(stored.declaration, f"generation {stored.record.number}")


@lru_cache(maxsize=2)  # a change has two
def _parsed(text: str, name: str) -> HostDeclaration:
    return parse_host(text, name)
