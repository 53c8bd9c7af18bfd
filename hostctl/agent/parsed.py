"""What generations on the disk declare. A generation never changes, so one that is asked for again is parsed once."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from hostctl.agent.generation import Stored
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host


def declaration(stored: Stored) -> HostDeclaration:
    """Return what a generation declares: all that is written, but for workloads that are withheld.

    Raises:
        GenerationError: the caller may not read it.
        DeclarationError: it was written for another release, whose declarations were other ones.
    """
    return _parsed(stored.declaration, f"generation {stored.record.number}", stored.record.withheld)


def without_workloads(declaration: HostDeclaration) -> HostDeclaration:
    """Return what of a declaration can hold while images are not here: everything but what they are for."""
    return replace(declaration, workloads={})


@lru_cache(maxsize=2)  # a change has two
def _parsed(text: str, name: str, withheld: bool) -> HostDeclaration:
    declaration = parse_host(text, name)
    return without_workloads(declaration) if withheld else declaration
