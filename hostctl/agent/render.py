"""Renders what a declaration lays over /etc. Pure: the same declaration gives the same bytes.

Workloads, their bundles and the container network are rendered by :mod:`hostctl.workload` and :mod:`hostctl.network`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from hostctl.agent.tree import File, Link, Tree, merge, text
from hostctl.config import rolling
from hostctl.config.host import HostDeclaration
from hostctl.config.host import Link as NetworkLink

FIRST_UID = 1000  # systemd's UIDS-GIDS: regular users are 1000…60000
LAST_UID = 59999
WIRED = "en* eth*"
OTHERS = "systemd/network/90-default.network"
NO_ADDRESS = f"""\
[Match]
Name={WIRED}

[Link]
RequiredForOnline=no

[Network]
DHCP=no
LinkLocalAddressing=no
IPv6AcceptRA=no
"""
SYSCTL = "sysctl.d/99-zz-hostctl.conf"  # the last name counts, whatever the release sets; see sysctl.d(5)
MADE_BY = "# Rendered by hostctl from host.yaml; changes go there.\n"
UPDATE_SERVICE = "hostctl-update.service"
UPDATE_TIMER = "hostctl-update.timer"
AUTO_UPDATE_TIMER = "hostctl-auto-update.timer"
METRICS_SOCKET = "hostctl-metrics.socket"
METRICS_SERVICE = "hostctl-metrics.service"


def allocate_uids(
    names: Iterable[str], former: Mapping[str, int], others: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return a number for each user: the former one where there is one, else the next that nobody ever had.

    Numbers of users that are no longer declared stay reserved (the result holds them too): nobody inherits their files.

    Args:
        names: the declared users.
        former: the numbers of the former generation.
        others: those of generations that it did not come from, as one that was taken back; one of these that somebody
            else has in ``former`` does not count.
    """
    uids, had = dict(former), set(former.values())
    for name, uid in (others or {}).items():
        if name not in uids and uid not in had:
            uids[name] = uid
            had.add(uid)
    following = max(uids.values(), default=FIRST_UID - 1) + 1
    for name in sorted(names):
        if name not in uids:
            uids[name] = following
            following += 1
    if following - 1 > LAST_UID:
        raise ValueError(f"user numbers are used up: {FIRST_UID} to {LAST_UID}")
    return uids


def _record(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def users(declaration: HostDeclaration, uids: Mapping[str, int]) -> Tree:
    """Return the user and group records (nss-systemd(8), "Configuration files"), sudo rules and home folders."""
    tree: dict[str, File | Link] = {}
    homes, rules = [], []
    for name, user in declaration.users.items():
        uid = uids[name]
        account = {
            "userName": name,
            "uid": uid,
            "gid": uid,
            "homeDirectory": f"/var/home/{name}",
            "shell": "/bin/bash",
            "disposition": "regular",
        }
        tree[f"userdb/{name}.user"] = text(_record(account))
        tree[f"userdb/{uid}.user"] = Link(target=f"{name}.user")
        privileged = {"privileged": {"sshAuthorizedKeys": [str(key) for key in user.ssh_keys]}}
        tree[f"userdb/{name}.user-privileged"] = text(_record(privileged), 0o600)
        tree[f"userdb/{uid}.user-privileged"] = Link(target=f"{name}.user-privileged")
        tree[f"userdb/{name}.group"] = text(_record({"groupName": name, "gid": uid, "disposition": "regular"}))
        tree[f"userdb/{uid}.group"] = Link(target=f"{name}.group")
        # What sshd reads: AuthorizedKeysFile in the image's sshd_config.
        tree[f"ssh/authorized_keys.d/{name}"] = text("".join(f"{key}\n" for key in user.ssh_keys))
        homes.append(f"d /var/home/{name} 0700 {uid} {uid} -\n")
        if user.sudo:
            tree[f"userdb/{name}:sudo.membership"] = text("")
            rules.append(f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n")
    if homes:
        tree["tmpfiles.d/hostctl-homes.conf"] = text(MADE_BY + "d /var/home 0755 root root -\n" + "".join(homes))
    if rules:
        tree["sudoers.d/hostctl"] = text(MADE_BY + "".join(rules), 0o440)
    return tree


def _network_file(link: NetworkLink) -> str:
    lines = ["[Match]", f"Name={link.match}", "", "[Network]"]
    lines.append(f"DHCP={'yes' if link.dhcp else 'no'}")
    lines += [f"Address={address}" for address in link.addresses]
    if link.gateway is not None:
        lines.append(f"Gateway={link.gateway}")
    lines += [f"DNS={server}" for server in link.dns]
    return MADE_BY + "\n".join(lines) + "\n"


def network(declaration: HostDeclaration) -> Tree:
    """Return systemd.network(5) files; DHCP on every wired link when none is declared.

    Else those that are not are up without an address, as the parent of a macvlan network needs it: the file has the
    name of the image's own, which asks for one by DHCP. Somebody who declares that file themselves has what it says.
    """
    if not declaration.network:
        return {"systemd/network/50-hostctl.network": text(f"{MADE_BY}[Match]\nName={WIRED}\n\n[Network]\nDHCP=yes\n")}
    made: dict[str, File | Link] = {
        f"systemd/network/50-hostctl-{name}.network": text(_network_file(link))
        for name, link in declaration.network.items()
    }
    if OTHERS not in {path.below_etc for path in declaration.files}:
        made[OTHERS] = text(MADE_BY + NO_ADDRESS)
    return made


def host(declaration: HostDeclaration, *, machine_id: str, uids: Mapping[str, int]) -> dict[str, File | Link]:
    """Return everything below /etc but the workloads' units.

    Args:
        declaration: the machine.
        machine_id: 32 hexadecimal digits, the same through all generations.
        uids: a number for each declared user, from :func:`allocate_uids`.

    Raises:
        TreeError: a declared file collides with a rendered one.
    """
    base: dict[str, File | Link] = {
        "hostname": text(f"{declaration.hostname}\n"),
        "machine-id": text(f"{machine_id}\n", 0o444),
        "localtime": Link(target=f"../usr/share/zoneinfo/{declaration.timezone}"),
    }
    if declaration.sysctl:
        settings = "".join(f"{name} = {value}\n" for name, value in sorted(declaration.sysctl.items()))
        base[SYSCTL] = text(MADE_BY + settings)
    if declaration.update is not None and declaration.update.unattended:
        base[f"systemd/system/timers.target.wants/{UPDATE_TIMER}"] = Link(
            target=f"/usr/lib/systemd/system/{UPDATE_TIMER}"
        )
    if rolling.renewed(declaration):
        base[f"systemd/system/timers.target.wants/{AUTO_UPDATE_TIMER}"] = Link(
            target=f"/usr/lib/systemd/system/{AUTO_UPDATE_TIMER}"
        )
    if declaration.metrics is not None:
        listens = f"{MADE_BY}[Socket]\nListenStream={declaration.metrics.listen}\n"
        base[f"systemd/system/{METRICS_SOCKET}.d/10-hostctl.conf"] = text(listens)
        base[f"systemd/system/sockets.target.wants/{METRICS_SOCKET}"] = Link(
            target=f"/usr/lib/systemd/system/{METRICS_SOCKET}"
        )
    files = {path.below_etc: text(entry.content, int(entry.mode)) for path, entry in declaration.files.items()}
    return merge(base, users(declaration, uids), network(declaration), files)
