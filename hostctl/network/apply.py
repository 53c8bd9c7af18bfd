"""The network pass: brings the host's networks to what the generation in force says, for all workloads at once.

Run by ``hostctl-network.service`` as ``python3 -I -m hostctl.network.apply``, at boot and after every change. It reads
``/var/lib/hostctl/current/network.json``, compares with what is there, and does only what is missing: a second pass
changes nothing but the packet filter, which is replaced by an equal one. What is not declared any more is removed.
Flows of UDP that stand against a published port are decided anew, see :mod:`hostctl.network.flows`.
While workloads change by having two instances, ``/run/hostctl/network.json`` says what is there instead.
One workload that cannot be connected does not keep the others from it; the pass then ends with a failure. Nothing of
that one is left pinned: it could start in namespaces that the next pass would not connect but replace.

The workload's side joins what is pinned here. Its ``config.json`` names, under ``linux.namespaces``,
``{"type": "user", "path": "/run/hostctl/userns/NAME"}`` and
``{"type": "network", "path": "/run/netns/workload-NAME"}``, of an instance with its letter behind NAME; the user
namespace maps 0 to ``userns_start`` and the 65535 ids after it, for users and groups alike, so the bundle's own
mappings must say the same or nothing. The interfaces are ``eth0`` and so on, in the order of the networks; the default
route is that of the first network that is not internal. The name server answers at the gateway of each, see
:mod:`hostctl.network.names`. Its unit has ``Wants=`` and ``After=`` this service, never ``Requires=``: a restart of the
pass must not restart workloads.

A running workload keeps the namespaces it joined. If its link is taken away by somebody, or its range of user ids
changes, the pass makes new namespaces, which the workload joins when it is started next. Where the networks of one that
is not declared change while it runs, links come and go in the namespaces that it has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.network import balance, flows, names, namespaces
from hostctl.network.document import MAX_BYTES, decode
from hostctl.network.model import NetworkPlan, NetworkPlanError
from hostctl.network.nftables import adjust, ruleset
from hostctl.network.work import Work, decide, is_own_name, places
from hostctl.run import run

if TYPE_CHECKING:
    from hostctl.network.links import Links

NFT_TIMEOUT = 60.0  # seconds
SHOWN = 10  # failures; more of the same help nobody


class NetworkPassError(HostctlError):
    """Not everything that is declared could be connected."""

    id = "network-pass-failed"


def main(arguments: Sequence[str]) -> int:
    """Run one pass over the plan in the file that ``arguments`` name, else over the one in force; return the status."""
    layout = HostLayout()
    try:
        network_pass(layout, read(Path(arguments[0])) if arguments else in_force(layout))
    except HostctlError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    return 0


def in_force(layout: HostLayout) -> NetworkPlan:
    """Return the plan of the generation in force, or while workloads change what holds until that has ended.

    Raises:
        NetworkPlanError: there is none, or it is damaged.
    """
    changing = layout.changing_network
    return read(changing if changing.exists() else layout.current / "network.json")


def read(path: Path) -> NetworkPlan:
    """Return the plan in the file at ``path``.

    Raises:
        NetworkPlanError: there is none, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NetworkPlanError(f"the network plan {path} cannot be read", details=str(error)) from error
    return decode(data)


def network_pass(layout: HostLayout, plan: NetworkPlan) -> None:
    """Bring the networks to what ``plan`` says.

    Raises:
        NetworkPassError: one or more workloads could not be connected; the others are.
        HostctlError: the packet filter or a bridge could not be had, so nobody is connected anew.
    """
    names.write(layout, names.tables(plan))
    pinned = namespaces.pinned(layout)
    if not plan.workloads and not pinned and not _has_links(layout):
        return  # a host without private networks pays for neither nft nor pyroute2
    ahead = _ahead(plan, pinned)
    with ExitStack() as opened:
        with _pinning(layout, ahead) as pinning:
            # Before any link is up: at no moment is a workload less isolated than it should be.
            _filter(layout, plan)
            from hostctl.network.links import Links  # noqa: PLC0415 - 200 ms, see above

            links = opened.enter_context(closing(Links()))
            work = _work(layout, plan, links, pinned)
            for link in work.remove:
                links.remove(link)
            for name in work.unpin:
                namespaces.unpin(layout, name)
            for network in work.make_bridges:
                links.make_bridge(network)
            _forward(layout, plan)
            for link, bridge in work.attach:
                links.attach(link, bridge)
            failures = dict[str, HostctlError](pinning())
        _connect(layout, plan, work, links, failures, ahead)


def _ahead(plan: NetworkPlan, pinned: frozenset[str]) -> Mapping[str, int]:
    """Return the ranges of the workloads that surely need namespaces, by name; a parent may not be there yet."""
    on_macvlan = {workload.key for workload, *_ in places(plan, "macvlan")}
    return {one.key: one.userns_start for one in plan.workloads if one.key not in pinned | on_macvlan}


@contextmanager
def _pinning(
    layout: HostLayout, ranges: Mapping[str, int]
) -> Iterator[Callable[[], Mapping[str, namespaces.NamespaceError]]]:
    """Pin namespaces in a thread while this one waits for other programs; what is given waits, and returns what failed.

    If the block fails they go: a workload must not start in some that nothing leads to.
    """
    with ThreadPoolExecutor(max_workers=1) as beside:
        made = beside.submit(namespaces.pin, layout, ranges)
        try:
            yield made.result
        except BaseException:
            wait([made])
            for name in ranges:
                namespaces.unpin(layout, name)
            raise


def _work(layout: HostLayout, plan: NetworkPlan, links: Links, pinned: frozenset[str]) -> Work:
    from hostctl.network.links import nested  # noqa: PLC0415 - as above

    whole = frozenset(name for name in pinned if namespaces.is_whole(layout, name))
    with_macvlan = {workload.key for workload, *_ in places(plan, "macvlan")} & whole
    if flows.publishes(plan):
        from hostctl.network import conntrack  # noqa: PLC0415 - most hosts do not need it

        conntrack.decide_anew(plan, links.addresses())
    return decide(
        plan,
        links.all(),
        pinned=pinned,
        whole=whole,
        nested={name: nested(namespaces.network_namespace(layout, name)) for name in with_macvlan},
    )


def _filter(layout: HostLayout, plan: NetworkPlan) -> None:
    """Replace the table. What became of replicas meanwhile, they did to the former one, so it is looked at again."""
    replicas = [each.key for each in balance.balanced(plan)]
    before = balance.serving(layout, replicas)
    run(["nft", "-j", "-f", "-"], stdin=ruleset(plan, before), timeout=NFT_TIMEOUT)
    after = balance.serving(layout, replicas)
    if after != before:
        mended = adjust(plan, sorted(after - before), sorted(before - after))
        run(["nft", "-j", "-f", "-"], stdin=mended, timeout=NFT_TIMEOUT)


def _has_links(layout: HostLayout) -> bool:
    return any(is_own_name(path.name) for path in (layout.root / "sys/class/net").iterdir())


def _connect(
    layout: HostLayout,
    plan: NetworkPlan,
    work: Work,
    links: Links,
    failures: dict[str, HostctlError],
    ahead: Collection[str],
) -> None:
    """Connect workloads; of those in ``ahead`` the namespaces are pinned, but for what failed."""
    failures |= links.without_parent(plan, work.connect)
    left = [one for one in work.connect if one.key not in failures and one.key not in ahead]
    failures |= namespaces.pin(layout, {one.key: one.userns_start for one in left})
    made = [one for one in work.connect if one.key not in failures]
    joined = [one for one in plan.workloads if one.key in work.join]
    useless = {one.key for one in made}
    try:
        failures |= links.connect(layout, plan, [*made, *joined], work.join)
        useless &= failures.keys()
    finally:
        for name in useless:
            namespaces.unpin(layout, name)
    if failures:
        raise NetworkPassError(
            f"{len(failures)} of {len(plan.workloads)} workloads have no network: {', '.join(sorted(failures))}",
            details="\n".join(f"{error.brief}: {error.details}" for error in list(failures.values())[:SHOWN]),
        )


def _forward(layout: HostLayout, plan: NetworkPlan) -> None:
    """Let the kernel forward what the networks need; it is not written without need: that resets other settings."""
    wanted = {"ipv4/ip_forward": bool(plan.bridges), "ipv6/conf/all/forwarding": any(n.subnet6 for n in plan.bridges)}
    for name, needed in wanted.items():
        setting = layout.root / "proc/sys/net" / name
        if needed and setting.exists() and setting.read_text().strip() != "1":
            setting.write_text("1")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
