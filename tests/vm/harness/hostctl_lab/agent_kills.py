"""The agent is killed at random moments of what it does; the host must come to what is declared, and workloads run on.

A trial starts a deed in the guest, kills everything of the agent after a random time, most often again while the next
agent takes back what the first left, and waits until the host has settled, see :mod:`hostctl_lab.agent_deeds`. A
workload that no declaration changes must not have been restarted by any of that. At some deeds it is the bus or the
journal that is killed, once: who asked for the deed may lose the answer then, but not wait for ever.
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

from hostctl_lab.agent_deeds import AGENT, BUS, FOLDER, STEADY, Deed, Prepared, prepare, unsettled
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
HANG_SECONDS = 200.0  # longer than any deed takes, whatever is killed at it
AT = """\
hostctl apply {folder}/wanted.yaml >{folder}/said 2>&1 & deed=$!
came=
for i in $(seq 3000); do if {moment}; then came=yes; break; fi; sleep 0.05; done
test -n "$came" || {{ echo it did not come; cat {folder}/said; exit 1; }}
systemctl kill --signal=KILL {agent}
wait $deed || true
"""
STATE = f"systemctl list-jobs; journalctl --boot --unit={AGENT} --unit={BUS} -n 40 --no-pager -o short-monotonic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What became of the kills of one deed. ``problem`` is empty when all is well.

    ``pauses`` are seconds before each kill, ``settled`` is seconds from the end of the deed on.
    """

    deed: str
    pauses: tuple[float, ...]
    killed: int
    """Kills that hit an agent at its work, at others there was none; or the unit that was to be killed instead."""
    settled: float
    generation: str
    problem: str
    lost: bool
    """It did not settle at all, or not as it should: nothing more is to be learned from this host."""


def kill_at(host: Host, text: str, moment: str, folder: str, seconds: float) -> None:
    """Apply a declaration and kill the agent once, at the first look that finds a moment of it.

    Args:
        host: where.
        text: the declaration.
        moment: a condition of a shell.
        folder: of the guest, for what is applied and what is said.
        seconds: for all of it; a moment that does not come is an error.
    """
    host.text("tee", f"{folder}/wanted.yaml", stdin=text)
    host.shell(AT.format(folder=folder, moment=moment, agent=AGENT), seconds=seconds)


def _runs(host: Host) -> str:
    return host.text("systemctl", "show", f"workload-{STEADY}.service", "-P", "InvocationID,MainPID,NRestarts")


def kill(host: Host, prepared: Prepared, deed: Deed, pauses: Sequence[float]) -> Trial:
    """Kill the deed's victim at it after each of the pauses, and see what becomes of the host."""
    before = _runs(host)
    said = host.shell(
        f"timeout {HANG_SECONDS:.0f} sh -c {shlex.quote(deed.command)} >{FOLDER}/said 2>&1 & deed=$!\n"
        f"for pause in {' '.join(f'{pause:.2f}' for pause in pauses)}; do\n"
        "  sleep $pause\n"
        f"  systemctl show {deed.victim} -P MainPID\n"
        f"  systemctl kill --signal=KILL {deed.victim} 2>/dev/null || true\n"
        "done\n"
        "wait $deed || test $? -ne 124 || echo hangs\n",
        seconds=HANG_SECONDS + 100,
    ).split()
    began, problem, lost = time.monotonic(), "", False
    allowed = SETTLE_SECONDS
    if deed.completes:
        allowed += deed.seconds
        host.run("sh", "-c", deed.completes, seconds=300, check=False)
    try:
        wanted = max(allowed, SLOW * deed.seconds)
        host.wait_for("the host has settled", lambda: not unsettled(host, prepared), wanted)
    except WaitError as error:
        lost = True
        why = unsettled(host, prepared)
        problem = f"not settled: {why or error}\n{host.run('sh', '-c', STATE, check=False).text}"
    took = time.monotonic() - began
    if not problem and _runs(host) != before:
        lost = True
        problem = f"{STEADY} was restarted: {before} became {_runs(host)}"
    if not problem and "hangs" in said:
        problem = f"who asked for it had no answer and no error within {HANG_SECONDS:.0f} s"
    if not problem and took > allowed:
        problem = f"settled after {took:.1f} s, {allowed:.0f} are allowed"
    return Trial(
        deed=deed.name,
        pauses=tuple(round(pause, 2) for pause in pauses),
        killed=sum(line not in ("0", "hangs") for line in said),
        settled=round(took, 1),
        generation=host.text("readlink", "/var/lib/hostctl/current"),
        problem=problem,
        lost=lost,
    )


def moments(deed: Deed, chance: random.Random, count: int) -> list[float]:
    """Return the seconds before each kill of a trial, of which ``count`` are still wanted."""
    more = range(chance.randrange(min(KILLS, count)))
    pauses = [chance.uniform(0.05, deed.seconds * 1.1), *(chance.uniform(*AGAIN) for _ in more)]
    return pauses if deed.victim == AGENT else pauses[:1]


def trials(host: Host, prepared: Prepared, count: int, seed: int) -> Iterator[Trial]:
    """Kill ``count`` times at a deed, each in turn, at moments that ``seed`` decides."""
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    for deed in itertools.islice(itertools.cycle(prepared.deeds), TRIES * count):
        trial = kill(host, prepared, deed, moments(deed, chance, count))
        yield trial
        count -= trial.killed
        if trial.lost or count <= 0:
            return


@contextmanager
def killable(lab: Lab, folder: Path) -> Iterator[tuple[Host, str, Registry]]:
    """Run a host of its own with a registry; yields also what the run's declarations begin with."""
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
        for trial in trials(host, prepare(host, base, registry), count, seed):
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
