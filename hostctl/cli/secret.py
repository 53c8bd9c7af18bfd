"""``hostctl secret``: the values of declared secrets, which are in no declaration."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime

from hostctl.agent import event_log, generation, secrets
from hostctl.agent.machine import secrets_unit, workload_unit
from hostctl.cli.tables import table
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.errors import HostctlError, UsageError
from hostctl.layout import HostLayout
from hostctl.run import run as run_program

EXAMPLES = """examples:
  pwgen 32 1 | hostctl secret set database
  hostctl secret set tls-key --restart < key.pem     workloads that use it are restarted
  hostctl secret ls                                  names, never values
  hostctl secret rm database

A value is stored encrypted, and only workloads that declare the secret see it, from their next start on. It is taken
as it is, with the end of its last line.
"""
RESTART_SECONDS = 300.0


class NotRootError(HostctlError):
    """Only root may look after secrets."""

    id = "secrets-are-roots"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("action", choices=("set", "ls", "rm"), help="store a value, list names, remove a value")
    parser.add_argument("name", nargs="?", help="the secret, as the declaration names it")
    parser.add_argument("--restart", action="store_true", help="after set: restart running workloads that use it")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def users(declaration: HostDeclaration, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the workloads that see a secret as a file only, and those that have it in their environment."""
    in_environment = tuple(
        str(each) for each, workload in declaration.workloads.items() if name in workload.env_secrets.values()
    )
    as_file = tuple(str(each) for each, workload in declaration.workloads.items() if name in workload.secrets)
    return tuple(each for each in as_file if each not in in_environment), in_environment


def _declaration(layout: HostLayout) -> HostDeclaration | None:
    stored = generation.current(layout)
    return parse_host(stored.declaration, "host.yaml") if stored else None


def _list(layout: HostLayout, *, as_json: bool) -> None:
    declaration = _declaration(layout)
    declared = {str(name) for name in declaration.secrets} if declaration else set()
    changed = {each.name: each.changed for each in secrets.stored(layout)}
    rows = []
    for name in sorted(declared | set(changed)):
        time = datetime.fromtimestamp(changed[name], UTC).isoformat(timespec="seconds") if name in changed else ""
        used = [*users(declaration, name)[0], *users(declaration, name)[1]] if declaration else []
        rows.append({"name": name, "changed": time, "declared": name in declared, "workloads": sorted(used)})
    if as_json:
        print(json.dumps({"secrets": rows}))
        return
    lines = [(str(row["name"]), str(row["changed"]) or "no value", " ".join(row["workloads"])) for row in rows]  # type: ignore[arg-type]  # a list, as made above
    print(table(("NAME", "CHANGED", "WORKLOADS"), lines))


def _restart(layout: HostLayout, name: str) -> tuple[str, ...]:
    declaration = _declaration(layout)
    as_file, in_environment = users(declaration, name) if declaration else ((), ())
    # What is in an environment was put there by a service, which the workload requires.
    stored = generation.current(layout)
    units = [workload_unit(key) for each in as_file if stored for key in stored.record.keys(each)]
    units += [secrets_unit(key) for each in in_environment if stored for key in stored.record.keys(each)]
    if units:
        run_program(["systemctl", "try-restart", "--", *units], timeout=RESTART_SECONDS)
    return (*as_file, *in_environment)


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
        restarted = _restart(layout, arguments.name) if arguments.restart else ()
    else:
        secrets.remove(layout, arguments.name)
        event_log.write("remove", arguments.name, kind="secret")
    if arguments.json:
        print(json.dumps({"done": arguments.action, "name": arguments.name, "restarted": restarted}))
    return 0
