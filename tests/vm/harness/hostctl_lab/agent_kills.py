"""The agent is killed at random moments of what it does; the host must come to what is declared, and workloads run on.

A trial starts a deed in the guest, kills everything of the agent after a random time, most often again while the next
agent takes back what the first left, and waits until the host has settled: one of the two declarations is wholly in
force, nothing is pending, and every declared workload runs, once. A workload that neither declaration changes must not
have been restarted by any of that.
"""

from __future__ import annotations

import itertools
import json
import random
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostctl_qemu import snapshot
from hostctl_qemu.machine import Forward, free_port
from hostctl_qemu.ssh import Ssh, make_key
from hostctl_qemu.state import SSH_PORT

from hostctl_lab.host import Host, WaitError
from hostctl_lab.registry import Registry, run_registry
from hostctl_lab.releases import Lab
from hostctl_lab.scenario import first_boot

SETTLE_SECONDS = 30.0
SLOW = 3.0  # times what a deed takes undisturbed: so long it is looked at, to tell a host that is late from a lost one
READY_SECONDS = 120.0
KILLS = 12  # of one trial, at most
TRIES = 4  # trials for each kill that is wanted, at most: some hit nothing
AGAIN = (0.8, 6.0)  # seconds between two: systemd starts the agent again after one
BOX = "/usr/bin/busybox"
STEADY, CHANGED, PULLED = "steady", "changed", "pulled"
FOLDER = "/run/agent-kills"
SETTLED = f"""\
state=/var/lib/hostctl
test ! -e $state/pending || {{ echo pending; exit 1; }}
cmp /etc/motd $state/current/etc/motd || exit 1
for name in $(cat {FOLDER}/wanted-$(cat /etc/motd)); do
  systemctl is-active --quiet workload-$name.service || {{ echo $name is not active; exit 1; }}
done
test "$(crun list -q | sort | tr '\\n' ' ')" = "$(cat {FOLDER}/wanted-$(cat /etc/motd)) " || {{ crun list; exit 1; }}
test -z "$(ls $state/volumes -A | grep '^\\.' || true)"
"""
STATE = "systemctl list-jobs; journalctl --boot --unit=hostd.service --lines=40 --no-pager --output=short-monotonic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deed:
    """Something that the agent is asked for, and how long it takes undisturbed, in seconds."""

    name: str
    command: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What became of the kills of one deed. ``problem`` is empty when all is well.

    ``pauses`` are seconds before each kill, ``settled`` is seconds from the end of the deed on.
    """

    deed: str
    pauses: tuple[float, ...]
    killed: int
    """Kills that hit an agent at its work; at others there was none."""
    settled: float
    generation: str
    problem: str
    lost: bool
    """It did not settle at all, or not as it should: nothing more is to be learned from this host."""


def declaration(base: str, registry: Registry, which: str) -> str:
    """Return one of the two declarations: both have ``steady``, the second changes one workload and pulls another's.

    Args:
        base: host.yaml without workloads and files.
        registry: has ``box:1``.
        which: ``a`` or ``b``.
    """
    sleep = f"[{BOX}, sleep, '1000000']"
    pulled = f"  {PULLED}: {{image: '{registry.guest_address}/box:1', command: {sleep}}}\n" if which == "b" else ""
    return f"""{base}\
files: {{/etc/motd: {{content: "{which}"}}}}
registries: {{"{registry.guest_address}": {{insecure: true}}}}
workloads:
  {STEADY}: {{image: localhost/box:1, command: {sleep}}}
  {CHANGED}: {{image: localhost/box:1, command: {sleep}, env: {{WHICH: {which}}}}}
{pulled}"""


def _seconds(host: Host, command: str) -> float:
    began = time.monotonic()
    host.shell(command, seconds=300)
    return time.monotonic() - began


def prepare(host: Host, base: str, registry: Registry) -> tuple[Deed, ...]:
    """Put both declarations into the guest, apply them once, and return what can be killed."""
    host.shell(f"mkdir -p {FOLDER}")
    for which, names in (("a", (CHANGED, STEADY)), ("b", (CHANGED, PULLED, STEADY))):
        text = declaration(base, registry, which)
        host.text("tee", f"{FOLDER}/{which}.yaml", stdin=text)
        host.text("tee", f"{FOLDER}/wanted-{which}", stdin=" ".join(names))
    host.shell(f"hostctl apply {FOLDER}/a.yaml", seconds=300)
    to_b = _seconds(host, f"hostctl apply {FOLDER}/b.yaml")
    to_a = _seconds(host, f"hostctl apply {FOLDER}/a.yaml")
    restart = _seconds(host, f"hostctl restart {CHANGED}")
    stop = _seconds(host, f"hostctl stop {CHANGED}; hostctl start {CHANGED}")
    return (
        Deed(name="apply with a pull", command=f"hostctl apply {FOLDER}/b.yaml", seconds=to_b),
        Deed(name="apply back", command=f"hostctl apply {FOLDER}/a.yaml", seconds=to_a),
        Deed(name="restart", command=f"hostctl restart {CHANGED}", seconds=restart),
        Deed(name="stop and start", command=f"hostctl stop {CHANGED}; hostctl start {CHANGED}", seconds=stop),
    )


def _runs(host: Host) -> str:
    return host.text("systemctl", "show", f"workload-{STEADY}.service", "-P", "InvocationID,MainPID,NRestarts")


def kill(host: Host, deed: Deed, pauses: Sequence[float]) -> Trial:
    """Kill the agent at its deed after each of the pauses, and see what becomes of the host."""
    before = _runs(host)
    said = host.shell(
        f"sh -c {shlex.quote(deed.command)} >{FOLDER}/said 2>&1 & deed=$!\n"
        f"for pause in {' '.join(f'{pause:.2f}' for pause in pauses)}; do\n"
        "  sleep $pause\n"
        "  systemctl show hostd.service -P MainPID\n"
        "  systemctl kill --signal=KILL hostd.service 2>/dev/null || true\n"
        "done\n"
        "wait $deed || true\n",
        seconds=300,
    )
    began, problem, lost = time.monotonic(), "", False
    if "stop" in deed.name:  # whether it was stopped or started last is the deed's affair, not the agent's
        host.run("hostctl", "start", CHANGED, check=False)
    try:
        host.wait_for("the host has settled", lambda: _settled(host), max(SETTLE_SECONDS, SLOW * deed.seconds))
    except WaitError as error:
        lost = True
        why = host.run("sh", "-c", SETTLED, check=False)
        problem = f"not settled: {why.text.strip() or error}\n{host.run('sh', '-c', STATE, check=False).text}"
    took = time.monotonic() - began
    if not problem and _runs(host) != before:
        lost = True
        problem = f"{STEADY} was restarted: {before} became {_runs(host)}"
    if not problem and took > SETTLE_SECONDS:
        problem = f"settled after {took:.1f} s, {SETTLE_SECONDS:g} are allowed"
    return Trial(
        deed=deed.name,
        pauses=tuple(round(pause, 2) for pause in pauses),
        killed=sum(line not in ("", "0") for line in said.split()),
        settled=round(took, 1),
        generation=host.text("readlink", "/var/lib/hostctl/current"),
        problem=problem,
        lost=lost,
    )


def _settled(host: Host) -> bool:
    return host.run("sh", "-c", SETTLED, check=False).status == 0


def trials(host: Host, deeds: Sequence[Deed], count: int, seed: int) -> Iterator[Trial]:
    """Kill ``count`` times an agent at its work, each deed in turn, at moments that ``seed`` decides."""
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    for deed in itertools.islice(itertools.cycle(deeds), TRIES * count):
        more = range(chance.randrange(min(KILLS, count)))
        trial = kill(host, deed, [chance.uniform(0.05, deed.seconds * 1.1), *(chance.uniform(*AGAIN) for _ in more)])
        yield trial
        count -= trial.killed
        if trial.lost or count <= 0:
            return


@contextmanager
def killable(lab: Lab, folder: Path) -> Iterator[tuple[Host, str, Registry]]:
    """Run a host of its own with a registry; yields also the declaration that both of the run's begin with."""
    base = folder / "base"
    base.mkdir(parents=True)
    text = f"version: 1\nhostname: web-1\nusers:\n  ops: {{ssh_keys: ['{make_key(base)}'], sudo: true}}\n"
    probe = "health: {probe: {unit: probe.service, within: 60s}}\n"
    (folder / "registry").mkdir()
    with run_registry(folder / "registry") as registry:
        registry.push(f"oci-archive:{lab.image()}", "box:1")
        taken = first_boot(lab, base, text + probe)
        port = free_port()
        forwards = (Forward(host_port=port, guest_port=SSH_PORT),)
        with snapshot.restore(taken, folder / "run", forwards) as machine:
            host = Host(machine=machine, ssh=Ssh(folder=base, port=port))
            host.ssh.wait_ready(READY_SECONDS)
            yield host, text + probe, registry


def run(lab: Lab, count: int, seed: int, *, as_json: bool) -> int:
    """Kill the agent of a host of its own ``count`` times; 1 if that did not come to what is declared, or too late."""
    done = []
    with (
        tempfile.TemporaryDirectory(prefix="agent-kills-") as scratch,
        killable(lab, Path(scratch) / "host") as (host, base, registry),
    ):
        deeds = prepare(host, base, registry)
        for trial in trials(host, deeds, count, seed):
            done.append(trial)
            if not as_json:
                what = trial.problem or f"{trial.generation} after {trial.settled} s"
                when = ", ".join(map(str, trial.pauses))
                print(f"{sum(each.killed for each in done)} {trial.deed}, killed after {when} s: {what}", flush=True)
    broken, lost = sum(bool(trial.problem) for trial in done), sum(trial.lost for trial in done)
    longest = max((trial.settled for trial in done), default=0.0)
    kills = sum(trial.killed for trial in done)
    figures = {"kills": kills, "trials": len(done), "late": broken - lost, "lost": lost}
    print(json.dumps({**figures, "longest": longest}) if as_json else f"{figures}, longest {longest} s")
    return 1 if broken or kills < count else 0
