"""Other networks for a workload that is not in host.yaml, as an edit of the declaration in force. Pure.

What runs keeps its namespaces: links come and go in them. Only its name server's address is written into a file that it
has open, so it cannot lose the network that this is in without being started anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hostctl.agent import transient
from hostctl.config import networks
from hostctl.config.dump import plain
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.config.workload import Workload
from hostctl.errors import EXIT_USAGE, HostctlError

SETTINGS = frozenset({"aliases", "ipv4", "ipv6"})


class ConnectError(HostctlError):
    """A workload cannot be connected to a network, or taken off it."""

    id = "network-connect"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """The declaration with the change, the workload's full name, and whether its name server is another one then."""

    text: str
    workload: str
    renames: bool


def connect(text: str, network: str, name: str, request: str) -> Change:
    """Return the declaration with a workload on one network more, its last.

    Args:
        text: the declaration in force.
        network: its name.
        name: of the workload, with the prefix or without.
        request: a JSON object with settings of an attachment: aliases, ipv4, ipv6.

    Raises:
        ConnectError: it cannot be.
        DeclarationError: a setting is wrong.
    """
    declaration = parse_host(text, "host.yaml")
    settings = _settings(request)
    full, workload = _workload(declaration, name, {network: settings})
    on = _attachments(workload)
    _require(declaration, workload, network)
    if network in on:
        raise ConnectError(f"workload {full} is on network {network} already")
    return _changed(declaration, full, workload, {**on, network: settings})


def disconnect(text: str, network: str, name: str) -> Change:
    """Return the declaration with a workload on one network less; arguments and errors as :func:`connect`."""
    declaration = parse_host(text, "host.yaml")
    full, workload = _workload(declaration, name, {}, without=network)
    on = _attachments(workload)
    _require(declaration, workload, network)
    if network not in on:
        raise ConnectError(f"workload {full} is not on network {network}", hint=f"it is on {', '.join(on) or 'none'}")
    if len(on) == 1:
        raise ConnectError(
            f"{network} is the only network of workload {full}",
            hint="connect it to another one first; `hostctl run --network none` runs one without any",
        )
    return _changed(declaration, full, workload, {each: place for each, place in on.items() if each != network})


def _settings(request: str) -> dict[str, object]:
    try:
        found = json.loads(request)
        unknown = sorted(set(found) - SETTINGS) if isinstance(found, dict) else ["it"]
    except (ValueError, TypeError) as error:
        raise ConnectError("the request is none", details=repr(error)) from error
    if unknown:
        raise ConnectError(f"{', '.join(unknown)}: not a setting of a workload on a network")
    return {str(key): value for key, value in found.items() if value}


def _workload(
    declaration: HostDeclaration, name: str, more: Mapping[str, object], *, without: str = ""
) -> tuple[str, Workload]:
    """Return a workload that was run; for one that is declared the error says what to write instead."""
    known = {str(each): workload for each, workload in declaration.workloads.items()}
    hint = ""
    if name in known:
        on = {each: place for each, place in {**_attachments(known[name]), **more}.items() if each != without}
        hint = f"in host.yaml: workloads.{name}.networks: {_shown(on)}"
    full = transient.require(declaration, name, hint=hint)
    return full, known[full]


def _attachments(workload: Workload) -> dict[str, object]:
    return {name: plain(place) for name, place in networks.attachments(workload).items()}


def _shown(on: Mapping[str, object]) -> str:
    """Return networks as they are written on one line of YAML."""
    if not any(on.values()):
        return f"[{', '.join(on)}]"
    return f"{{{', '.join(f'{name}: {json.dumps(place)}' for name, place in on.items())}}}"


def _require(declaration: HostDeclaration, workload: Workload, network: str) -> None:
    """Refuse networks that links cannot come from and go to while a workload runs."""
    known = networks.declared(declaration)
    if network not in known:
        raise ConnectError(f"there is no network {network!r}", hint=f"there is {', '.join(known)}")
    if workload.network != "private":
        raise ConnectError(f"it runs with network: {workload.network}, which is on none of the host's networks")
    for each in (network, *networks.attachments(workload)):
        if known[each].driver == "macvlan":
            raise ConnectError(
                f"network {each} is macvlan, whose links cannot come and go while a workload runs",
                hint=f"run it anew with --network {network}",
            )


def _changed(declaration: HostDeclaration, name: str, workload: Workload, on: Mapping[str, object]) -> Change:
    wanted: object = dict(on) if any(on.values()) else list(on)
    text = transient.edited(declaration, name, {"networks": wanted})
    after = {str(each): changed for each, changed in parse_host(text, "the workload's networks").workloads.items()}
    before_server, after_server = _name_server(declaration, workload), _name_server(declaration, after[name])
    return Change(text=text, workload=name, renames=before_server != after_server)


def _name_server(declaration: HostDeclaration, workload: Workload) -> str | None:
    """Return the network whose gateway a workload asks for names; see :func:`hostctl.network.declared.connection`."""
    known = networks.declared(declaration)
    on = [*networks.attachments(workload)]
    return next((name for name in on if not known[name].internal), next(iter(on), None))
