"""Second words of the command line, as in ``hostctl volume backup``: each explains itself by examples of its verb."""

from __future__ import annotations

import argparse
import re


def add(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """Add an action, and return the parser of what follows it.

    Args:
        actions: the verb's.
        name: the word.
        summary: what it does, as a part of a sentence.
        examples: of the verb; the lines that are of this action are shown by its help.
    """
    parser = actions.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.epilog = "\n".join(["examples:", *of(parser.prog, examples)])
    return parser


def of(words: str, examples: str) -> list[str]:
    """Return the lines of examples in which a command begins with these words."""
    return [line for line in examples.splitlines() if re.search(rf"\b{re.escape(words)}( |$)", line)]
