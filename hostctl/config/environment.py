"""Environment variables as a text of lines ``NAME=value``, which is how a config gives many to a workload at once."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hostctl.config.text import quoted

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}")


def parse_environment(text: str) -> Mapping[str, str]:
    """Return the variables of a text; empty lines and lines that start with # say nothing, values are taken literally.

    Raises:
        ValueError: a line is neither; the message names it.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not VARIABLE.fullmatch(name) or "\0" in value or "\r" in value:
            raise ValueError(f"its line {number}, {quoted(line)}, is not NAME=value")
        found[name] = value
    return found
