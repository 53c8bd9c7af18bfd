"""``hostctl network``: the networks of the workloads, as they are planned, and who is on them.

Networks are declared in host.yaml; workloads that are not declared are connected and disconnected through the agent.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from hostctl.agent import generation, network_view
from hostctl.agent.network_view import NetworkView
from hostctl.cli import actions, filters, formats
from hostctl.cli.tables import table
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl network ls
  hostctl network ls --filter driver=bridge --format '{{.Name}} {{.IPAM.Config.Subnet}}'
  hostctl network inspect private
  hostctl network inspect -f '{{.IPAM.Config.Subnet}}' private
  hostctl network connect --alias sql private run-db
  hostctl network disconnect private run-db
  hostctl network disconnect --force private run-db    although its name server is there: it is started anew

Workloads that were run are connected and disconnected while they run, and keep the interfaces that they have. Those
that host.yaml declares are on the networks that it says; the error names the line to write there.
"""
FILTERS: Mapping[str, Callable[[NetworkView, str], bool]] = {
    "name": lambda row, wanted: filters.matches(row.name, wanted),
    "driver": lambda row, wanted: row.driver == wanted,
    "dangling": lambda row, wanted: filters.truth(wanted) != bool(row.workloads),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    words = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add(words, "ls", "list networks", EXAMPLES)
    listing.add_argument("-q", "--quiet", action="store_true", help="names only")
    listing.add_argument("--no-trunc", action="store_true", help="shorten nothing, as is the default")
    listing.add_argument("--format", metavar="TEMPLATE", help="print each by a template, as in `hostctl ps`")
    filters.configure(listing, FILTERS)
    looking = actions.add(words, "inspect", "everything known of networks", EXAMPLES)
    looking.add_argument("-f", "--format", metavar="TEMPLATE", help="print a part of it")
    looking.add_argument("network", nargs="+", help="names")
    connecting = actions.add(words, "connect", "connect a workload that was run to a network", EXAMPLES)
    connecting.add_argument("--alias", action="append", default=[], metavar="NAME", help="a further name of it there")
    connecting.add_argument("--ip", default="", metavar="ADDRESS", help="a static IPv4 address")
    connecting.add_argument("--ip6", default="", metavar="ADDRESS", help="a static IPv6 address")
    leaving = actions.add(words, "disconnect", "take a workload that was run off a network", EXAMPLES)
    leaving.add_argument("-f", "--force", action="store_true", help="even if it has to be started anew for that")
    for action in (connecting, leaving):
        action.add_argument("network", help="its name")
        action.add_argument("workload", help="its name, with run- or without")
    for action in (listing, looking, connecting, leaving):
        action.add_argument("--json", action="store_true", help="print a JSON document")


def text(found: Sequence[NetworkView]) -> str:
    """Return what a terminal shows."""
    rows = [
        (
            each.name,
            each.driver,
            each.subnet,
            each.subnet6 or "-",
            "yes" if each.internal else "no",
            str(len(each.workloads)),
        )
        for each in found
    ]
    return table(("NAME", "DRIVER", "SUBNET", "SUBNET6", "INTERNAL", "WORKLOADS"), rows)


def _change(arguments: argparse.Namespace) -> int:
    from hostctl.agent import client  # noqa: PLC0415 - only for these two, listing needs no bus

    if arguments.action == "connect":
        settings = {"aliases": arguments.alias, "ipv4": arguments.ip, "ipv6": arguments.ip6}
        said = client.ask("ConnectNetwork", arguments.network, arguments.workload, json.dumps(settings))
    else:
        options = "force" if arguments.force else ""
        said = client.ask("DisconnectNetwork", arguments.network, arguments.workload, options)
    if arguments.json:
        print(json.dumps(said))
    for note in () if arguments.json else said["notes"]:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _list(found: Sequence[NetworkView], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    elif arguments.format is not None:
        print(formats.render(arguments.format, [network_view.docker(each) for each in found]))
    elif arguments.quiet:
        print("".join(f"{each.name}\n" for each in found), end="")
    else:
        print(text(found))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Print networks, or change who is on them."""
    if arguments.action in ("connect", "disconnect"):
        return _change(arguments)
    found = network_view.read(generation.current(HostLayout()))
    if arguments.action == "ls":
        return _list(filters.chosen(found, arguments.filter, FILTERS), arguments)
    documents = [network_view.docker(network_view.named(found, name)) for name in arguments.network]
    if arguments.format is not None:
        print(formats.render(arguments.format, documents))
    else:
        print(json.dumps(documents, indent=1))
    return 0
