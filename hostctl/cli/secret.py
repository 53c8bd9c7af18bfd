"""``hostctl secret``: the values of declared secrets, which are in no declaration."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from hostctl.agent import event_log, secrets
from hostctl.cli.tables import table
from hostctl.errors import HostctlError, UsageError
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  pwgen 32 1 | hostctl secret set database
  hostctl secret set tls-key --restart < key.pem     workloads that use it are restarted
  hostctl secret ls                                  names, never values
  hostctl secret rm database

A value is stored encrypted, and only workloads that declare the secret see it, from their next start on. It is taken
as it is, with the end of its last line.
"""


class NotRootError(HostctlError):
    """Only root may look after secrets."""

    id = "secrets-are-roots"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("action", choices=("set", "ls", "rm"), help="store a value, list names, remove a value")
    parser.add_argument("name", nargs="?", help="the secret, as the declaration names it")
    parser.add_argument("--restart", action="store_true", help="after set: restart running workloads that use it")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _list(layout: HostLayout, *, as_json: bool) -> None:
    rows = secrets.listed(layout)
    if as_json:
        print(json.dumps({"secrets": [asdict(row) for row in rows]}))
        return
    lines = [(row.name, row.changed or "no value", " ".join(row.workloads)) for row in rows]
    print(table(("NAME", "CHANGED", "WORKLOADS"), lines))


def run(arguments: argparse.Namespace) -> int:
    """Store, list or remove.

    Raises:
        UsageError: a name is missing or too much.
        NotRootError: the caller is not root.
    """
    if (arguments.action == "ls") != (arguments.name is None):
        raise UsageError("`set` and `rm` need the name of a secret, `ls` takes none")
    if os.geteuid() != 0:
        raise NotRootError("only root may look after secrets", hint="use sudo")
    layout = HostLayout()
    if arguments.action == "ls":
        _list(layout, as_json=arguments.json)
        return 0
    restarted: tuple[str, ...] = ()
    if arguments.action == "set":
        secrets.put(layout, arguments.name, sys.stdin.buffer.read(secrets.MAX_BYTES + 1))
        event_log.write("set", arguments.name, kind="secret")
        restarted = secrets.restart_users(layout, arguments.name) if arguments.restart else ()
    else:
        secrets.remove(layout, arguments.name)
        event_log.write("remove", arguments.name, kind="secret")
    if arguments.json:
        print(json.dumps({"done": arguments.action, "name": arguments.name, "restarted": restarted}))
    return 0
