"""``hostctl network``: the networks of the workloads, as they are planned. Reads; they are declared in host.yaml."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from hostctl.agent import generation, network_view
from hostctl.agent.network_view import NetworkView
from hostctl.cli import formats
from hostctl.cli.tables import table
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl network ls
  hostctl network inspect private
  hostctl network inspect -f '{{.IPAM.Config.Subnet}}' private

Workloads are put on networks, and taken off, by their declaration: there is no connect and no disconnect.
"""


class UnknownNetworkError(HostctlError):
    """There is no network of this name."""

    id = "unknown-network"
    exit_code = EXIT_USAGE


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="list networks")
    listing.add_argument("-q", "--quiet", action="store_true", help="names only")
    looking = actions.add_parser("inspect", help="everything known of networks")
    looking.add_argument("-f", "--format", metavar="TEMPLATE", help="print a part of it")
    looking.add_argument("network", nargs="+", help="names")
    for action in (listing, looking):
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


def docker(network: NetworkView) -> dict[str, object]:
    """Return a network with Docker's keys, and ours beside them."""
    return {
        "Name": network.name,
        "Driver": network.driver,
        "Internal": network.internal,
        "IPAM": {"Config": {"Subnet": network.subnet, "Gateway": network.gateway, "Subnet6": network.subnet6}},
        "Containers": {
            name: {"Name": name, "IPv4Address": place.address, "IPv6Address": place.address6}
            for name, place in network.workloads.items()
        },
        **asdict(network),
    }


def run(arguments: argparse.Namespace) -> int:
    """Print networks."""
    found = network_view.read(generation.current(HostLayout()))
    if arguments.action == "ls":
        names = "".join(f"{each.name}\n" for each in found)
        listing = json.dumps([asdict(each) for each in found], indent=1) if arguments.json else text(found)
        print(names if arguments.quiet else f"{listing}\n", end="")
        return 0
    known = {each.name: each for each in found}
    for name in arguments.network:
        if name not in known:
            raise UnknownNetworkError(f"there is no network {name!r}", hint=f"there is {', '.join(known) or 'none'}")
    documents = [docker(known[name]) for name in arguments.network]
    if arguments.format is not None:
        print(formats.render(arguments.format, documents))
    else:
        print(json.dumps(documents, indent=1))
    return 0
