"""What an agent is asked for while it is killed, and how a host looks that has settled after it.

There are three declarations, each told by /etc/motd. The host has settled when one of them is wholly in force: nothing
is pending, every declared workload runs, once, and the host holds what it held when that declaration was in force and
nobody had been killed.
"""

from __future__ import annotations

import itertools
import random
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hostctl_lab import images
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry
from hostctl_lab.resources import SCRIPT, leaked, listed

BOX = "/usr/bin/busybox"
BESIDE, CHANGED, PULLED, STEADY = "beside", "changed", "pulled", "steady"
WANTED: Mapping[str, tuple[str, ...]] = {
    "a": (BESIDE, CHANGED, STEADY),
    "b": (BESIDE, CHANGED, PULLED, STEADY),
    "c": (BESIDE, CHANGED, STEADY),
}
"""The workloads of each declaration, sorted."""
AGENT, BUS, JOURNAL = "hostd.service", "dbus-broker.service", "systemd-journald.service"
VOLUME = "data"
FOLDER = "/run/agent-kills"
BYTES = 1 << 19  # of the volume's file, and of the layer that is pulled: some tenths of a second of work
CALM_SECONDS = 60.0
UNHELD = re.compile(r"\.health\.|/run/credentials/| /efi$")
"""What is there while a check or a service runs or somebody looks at it, and says nothing."""
LOOK = f"""\
state=/var/lib/hostctl
test ! -e $state/pending || {{ echo pending; exit 1; }}
test ! -e /run/hostctl/network.json || {{ echo two instances; exit 1; }}
cmp /etc/motd $state/current/etc/motd || exit 1
which=$(cat /etc/motd)
wanted=$(cat {FOLDER}/wanted-$which)
systemctl is-active $(printf 'workload-%s.service ' $wanted) | grep -vx active && {{ echo of $wanted; exit 1; }}
running=$(crun list -q | sed 's/^{BESIDE}\\.[ab]$/{BESIDE}/' | sort | tr '\\n' ' ')
test "$running" = "$wanted " || {{ echo running: $running; exit 1; }}
ls -A $state/volumes | grep '^\\.' && {{ echo left beside the volumes; exit 1; }}
cmp {FOLDER}/content $state/volumes/{VOLUME}/content || exit 1
echo $which
find $state/images -mindepth 2 -maxdepth 2 | sed 's/^/image /'
{SCRIPT}"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deed:
    """Something that the agent is asked for, and how long it takes undisturbed, in seconds.

    ``completes`` is run after it, undisturbed, where what the host comes to depends on how far the deed came.
    ``victim`` is the unit that is killed at it: the agent again and again, what the host cannot do without once.
    """

    name: str
    command: str
    seconds: float
    completes: str = ""
    victim: str = AGENT

    def without(self, victim: str) -> Deed:
        """Return the same deed, at which another unit is killed."""
        return replace(self, name=f"{self.name} without {victim}", victim=victim)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What can be asked for, and what the host holds under each declaration."""

    deeds: tuple[Deed, ...]
    held: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a host looked: why it has not settled, or else which declaration is in force and what it holds."""

    problem: str = ""
    which: str = ""
    held: tuple[str, ...] = ()


def declaration(base: str, registry: str, which: str) -> str:
    """Return one of the declarations: ``b`` changes one workload and pulls another's, ``c`` changes one beside itself.

    Args:
        base: host.yaml without workloads, volumes and files.
        registry: its address; it has ``box:1``.
        which: a key of :data:`WANTED`.
    """
    sleep = f"[{BOX}, sleep, '1000000']"
    pulled = f"  {PULLED}: {{image: '{registry}/box:1', command: {sleep}}}\n" if PULLED in WANTED[which] else ""
    return f"""{base}\
files: {{/etc/motd: {{content: "{which}"}}}}
registries: {{"{registry}": {{insecure: true}}}}
volumes: {{{VOLUME}: {{}}}}
workloads:
  {STEADY}: {{image: localhost/box:1, command: {sleep}}}
  {CHANGED}:
    image: localhost/box:1
    command: {sleep}
    env: {{WHICH: "{which == "b"}"}}
    volumes: ["{VOLUME}:/{VOLUME}"]
  {BESIDE}:
    image: localhost/box:1
    command: {sleep}
    env: {{WHICH: "{which == "c"}"}}
    healthcheck: {{exec: [{BOX}, "true"], interval: 10s}}
    update: {{order: start-first, drain: 1s}}
{pulled}"""


def look(host: Host) -> Look:
    """Look at a host once."""
    done = host.run("sh", "-c", LOOK, check=False)
    if done.status:
        return Look(problem=(done.stdout + done.stderr).decode("utf-8", "replace").strip() or f"status {done.status}")
    which, _, held = done.text.partition("\n")
    return Look(which=which, held=counted(held))


def counted(said: str) -> tuple[str, ...]:
    """Return what counts of what a host says that it holds; the instance with the other letter is none the worse."""
    return tuple(re.sub(rf"\b{BESIDE}\.[ab]\b", BESIDE, line) for line in listed(said) if not UNHELD.search(line))


def difference(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    """Return what is held more or less than before; files of images may have gone, as the oldest of them do."""
    more = leaked(before, after)
    less = [line for line in leaked(after, before) if not line.startswith("image ")]
    return "; ".join((*(f"left: {line}" for line in more), *(f"gone: {line}" for line in less)))


def unsettled(host: Host, prepared: Prepared) -> str:
    """Return why a host has not settled; nothing once it has."""
    found = look(host)
    return found.problem or difference(prepared.held[found.which], found.held)


def _seconds(host: Host, command: str) -> float:
    began = time.monotonic()
    host.shell(command, seconds=300)
    return time.monotonic() - began


def _calm(host: Host) -> dict[str, tuple[str, ...]]:
    """Return what the host holds under the declaration in force, once two looks say the same."""
    looks = [Look(problem="nobody has looked")]

    def same() -> bool:
        looks.append(look(host))
        return not looks[-1].problem and looks[-1] == looks[-2]

    host.wait_for("what the host holds stays the same", same, CALM_SECONDS)
    return {looks[-1].which: looks[-1].held}


def _push(registry: Registry) -> str:
    """Push an image that no workload runs, and return its reference for the guest."""
    with tempfile.TemporaryDirectory(prefix="agent-deeds-") as scratch:
        images.layout(Path(scratch) / "spare", random.Random(0).randbytes(BYTES))  # noqa: S311 - bytes, not secrets
        registry.push(f"oci:{scratch}/spare", "spare:1")
    return f"{registry.guest_address}/spare:1"


def prepare(host: Host, base: str, registry: Registry) -> Prepared:
    """Put the declarations into the guest, do every deed undisturbed, and return them; ``c`` is in force then."""
    host.shell(f"mkdir -p {FOLDER}")
    for which, names in WANTED.items():
        host.text("tee", f"{FOLDER}/{which}.yaml", stdin=declaration(base, registry.guest_address, which))
        host.text("tee", f"{FOLDER}/wanted-{which}", stdin=" ".join(names))
    apply = {which: f"hostctl apply {FOLDER}/{which}.yaml" for which in WANTED}
    spare = _push(registry)
    restore = f"hostctl volume restore --live {VOLUME} -i {FOLDER}/backup"
    collect = f"hostctl pull {spare}; hostctl rmi {spare}; hostctl image prune --all"
    commands = {
        "apply with a pull": apply["b"],
        "restore a volume": restore,
        "apply back": apply["a"],
        "pull and collect": collect,
        "restart": f"hostctl restart {CHANGED}",
        "stop and start": f"hostctl stop {CHANGED}; hostctl start {CHANGED}",
        "change beside itself": apply["c"],
    }
    # The agent that answers has ended what the one before it left.
    again = {"stop and start": f"hostctl start {CHANGED}", "pull and collect": collect}
    completes = {name: f"systemctl start hostd.service; {command}" for name, command in again.items()}
    host.shell(f"{apply['b']}; head -c {BYTES} /dev/urandom >{FOLDER}/content", seconds=300)
    host.shell(f"cp {FOLDER}/content /var/lib/hostctl/volumes/{VOLUME}/content")
    host.shell(f"hostctl volume backup --live {VOLUME} -o {FOLDER}/backup && {apply['c']}", seconds=300)
    held, deeds = _calm(host), []
    for name, command in commands.items():
        deeds.append(
            Deed(name=name, command=command, seconds=_seconds(host, command), completes=completes.get(name, ""))
        )
        if command in apply.values():
            held |= _calm(host)
    changes = [deed for deed in deeds if deed.command in apply.values()]
    for deed, victim in zip(changes, itertools.cycle((BUS, JOURNAL)), strict=False):
        deeds.append(deed.without(victim))
    return Prepared(deeds=tuple(deeds), held=held)
