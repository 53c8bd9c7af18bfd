"""``hostctl secret``: the values of declared secrets, which are in no declaration."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from hostctl.agent import client
from hostctl.cli.tables import table
from hostctl.errors import UsageError
from hostctl.progress import Progress

LONGEST = 1 << 20
"""Of what is read; the agent says what is too long."""
EXAMPLES = """examples:
  pwgen 32 1 | hostctl secret set database
  hostctl secret set tls-key --restart < key.pem     workloads that use it are restarted
  hostctl secret ls                                  names, never values
  hostctl secret rm database

A value is stored encrypted, and only workloads that declare the secret see it, from their next start on. It is taken
as it is, with the end of its last line. With --restart, replicas are restarted one after the other, each when the one
before is healthy. A job sees a value from its next run on.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("action", choices=("set", "ls", "rm"), help="store a value, list names, remove a value")
    parser.add_argument("name", nargs="?", help="the secret, as the declaration names it")
    parser.add_argument("--restart", action="store_true", help="after set: restart running workloads that use it")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _set(name: str, *, restart: bool, quiet: bool) -> Any:  # noqa: ANN401 - as the method's documentation says
    value = os.memfd_create("secret")
    with os.fdopen(value, "wb", closefd=False) as file:
        file.write(sys.stdin.buffer.read(LONGEST))
    os.lseek(value, 0, os.SEEK_SET)
    progress = Progress(quiet=quiet)
    options = "restart" if restart else ""
    return client.ask("SetSecret", name, options, descriptors=(value,), on_progress=progress.line)


def _listed(rows: list[dict[str, Any]]) -> str:
    lines = [(row["name"], row["changed"] or "no value", " ".join(row["workloads"])) for row in rows]
    return table(("NAME", "CHANGED", "WORKLOADS"), lines)


def run(arguments: argparse.Namespace) -> int:
    """Let the agent store, list or remove.

    Raises:
        UsageError: a name is missing or too much, or there is nothing to restart for.
    """
    if (arguments.action == "ls") != (arguments.name is None):
        raise UsageError("`set` and `rm` need the name of a secret, `ls` takes none")
    if arguments.restart and arguments.action != "set":
        raise UsageError("--restart goes with `set`", hint="a removed value is seen to the end of a run")
    if arguments.action == "set":
        said = _set(arguments.name, restart=arguments.restart, quiet=arguments.json)
    else:
        said = client.ask("ListSecrets") if arguments.action == "ls" else client.ask("RemoveSecret", arguments.name)
    if arguments.json:
        print(json.dumps(said))
    elif arguments.action == "ls":
        print(_listed(said["secrets"]))
    return 0
