"""What the text of a config must be where it is more than a file: variables, or a profile of system calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from hostctl.config.text import quoted

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}")
REFUSING = ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP")


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


def check_profile(text: str) -> None:
    """Check that a text is a profile of system calls (containers/common, pkg/seccomp/types.go).

    Raises:
        ValueError: it is not one, or one that allows whatever it does not name, which would be no profile at all.
    """
    try:
        document = json.loads(text)
        default = str(document["defaultAction"])
        rules = [(str(rule["action"]), [str(name) for name in rule["names"]]) for rule in document["syscalls"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no seccomp profile: {type(error).__name__} {error}") from error
    if default not in REFUSING:
        raise ValueError(
            f"its defaultAction {quoted(default)} lets unknown system calls through; SCMP_ACT_ERRNO does not"
        )
    if not rules:
        raise ValueError("it names no system call, so nothing could run")
