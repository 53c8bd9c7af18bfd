"""`script/faults`: the long proof that no power cut and no failing write takes a host away.

A run of two updates is recorded once for each state of the sources and kept in the cache; every call adds results to
it. The exit status says whether every invariant held in everything that was ever looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hostctl_qemu.checker import Checker

from hostctl.compose.lock import cache_folder
from hostctl.errors import HostctlError
from hostctl.run import run
from hostctl_lab import agent_kills, fault_corrupt, fault_live, fault_states
from hostctl_lab.crash_boot import Judge, Retry, machine_on
from hostctl_lab.fault_results import Results, Row, figures, report
from hostctl_lab.fault_states import Case
from hostctl_lab.releases import Lab
from hostctl_lab.scenario import FACTS, Scenario, record, servers

EXAMPLES = """examples:
  script/faults --stages                         every edge of every stage, both directions, judged offline
  script/faults --cuts 200 --boots 40 --seed 1   random cuts, 40 of them booted
  script/faults --replays 2000 --boots 50        subsets of unflushed writes at every flush
  script/faults --errors --kills 5               failing writes, full file systems, QEMU killed
  script/faults --agent-kills 1000               the agent killed while it applies, pulls, restores and stops
"""
RESULTS = "results.jsonl"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="script/faults", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", action="store_true", help="cut at every edge of every stage")
    parser.add_argument("--cuts", type=int, default=0, metavar="N", help="cut at N random times")
    parser.add_argument("--replays", type=int, default=0, metavar="N", help="judge N states of replayed writes")
    parser.add_argument("--corrupt", action="store_true", help="flip bits and break kernel images on the staged disk")
    parser.add_argument("--errors", action="store_true", help="let writes fail and file systems be full")
    parser.add_argument("--odd", action="store_true", help="update scarce machines, and those with a wrong clock")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill QEMU N times in an update")
    parser.add_argument("--agent-kills", type=int, default=0, metavar="N", help="kill the agent N times at its work")
    parser.add_argument("--boots", type=int, default=0, metavar="N", help="boot N states of each kind asked for")
    parser.add_argument("--retries", type=int, default=4, metavar="N", help="take the update again on every Nth boot")
    parser.add_argument("--seed", type=int, default=0, help="decides what is chosen by chance")
    parser.add_argument("--folder", type=Path, help="where the recorded run and the results are")
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON document")
    return parser


def lab() -> Lab:
    """Return the lab of these runs: not the tests' one, whose builds go when the sources change."""
    return Lab(cache_folder() / "faults")


class Run:
    """One call: what was asked for, on a recorded run."""

    def __init__(self, arguments: argparse.Namespace, scenario: Scenario, scratch: Path) -> None:
        self.arguments = arguments
        self.scenario = scenario
        self.scratch = scratch
        self.results = Results(scenario.folder / RESULTS)
        self.checker = Checker(lab().keys() / "secure-boot.crt")

    def judge(self) -> list[list[tuple[Case, Row]]]:
        """Judge the states that were asked for, offline, and return each kind's."""
        asked, seed = self.arguments, self.arguments.seed
        kinds = []
        if asked.stages:
            kinds.append(fault_states.stage_cases(self.scenario))
        if asked.cuts:
            kinds.append(fault_states.random_cases(self.scenario, asked.cuts, seed))
        if asked.replays:
            kinds.append(fault_states.replay_cases(self.scenario, asked.replays, seed))
        if asked.corrupt:
            fault_corrupt.run_corruptions(self.scenario, self.checker, self.results, seed)
        return [fault_states.judge_all(self.scenario, self.checker, cases, self.results) for cases in kinds]

    def boot(self, kinds: list[list[tuple[Case, Row]]], judge: Judge) -> None:
        """Boot a sample of each kind."""
        for done in kinds:
            chosen = fault_states.choose_to_boot(done, self.results, self.arguments.boots, self.arguments.seed)
            for number, (case, row) in enumerate(chosen):
                folder = self.scratch / f"{case.group}-{number}"
                again = bool(self.arguments.retries) and number % self.arguments.retries == 0
                self._boot(case, row, judge, folder, "must" if again else "no")

    def _boot(self, case: Case, row: Row, judge: Judge, folder: Path, retry: Retry) -> None:
        config = machine_on(self.scenario.origin, self.scenario.replay.disk(case.state), folder)
        requests = self.scenario.requests
        safe = self.scenario.safe_number(requests[case.state.durable - 1].end if case.state.durable else 0)
        wanted = case.wanted
        expected = {"old": wanted.old, "new": wanted.new}.get(row.kind)
        booted = judge.boot(config, wanted, safe, expected=expected, retry=retry)
        found = fault_live.boot_row(row.run, case.group, case.name, case.seed, booted, wanted)
        self.results.add(found)
        if found.problems:
            self._keep(folder)
        else:
            shutil.rmtree(folder)
        if not self.arguments.json:
            said = "; ".join(f"{name}: {text}" for name, text in found.problems) or "all invariants hold"
            print(f"{case.group} {case.name}: {found.kind} after {booted.seconds:.0f} s, {said}", flush=True)

    def _keep(self, folder: Path) -> None:
        """Keep a machine whose boot failed, so that its disk and console can be looked at."""
        failed = self.scenario.folder / "failed"
        failed.mkdir(exist_ok=True)
        kept = Path(tempfile.mkdtemp(dir=failed, prefix=f"{folder.name}-"))
        for path in ("disk.raw", "disk.qcow2", "serial.log"):
            (folder / path).rename(kept / path)
        run(["qemu-img", "rebase", "-u", "-F", "raw", "-b", "disk.raw", kept / "disk.qcow2"], timeout=60)
        shutil.rmtree(folder)

    def live(self, judge: Judge) -> None:
        """Run what needs a running host."""
        if self.arguments.errors:
            fault_live.run_errors(self.scenario, self.checker, self.results, self.scratch)
            fault_live.run_full(self.scenario, self.results, self.scratch)
        if self.arguments.odd:
            fault_live.run_odd(self.scenario, judge, self.results, self.scratch)
        if self.arguments.kills:
            fault_live.run_kills(
                self.scenario, judge, self.results, self.scratch, self.arguments.kills, self.arguments.seed
            )


def main(argv: Sequence[str]) -> int:
    """Run and print; 0 if every invariant held, 1 if one did not, 2 if it could not be found out."""
    arguments = parser().parse_args(argv)
    if arguments.agent_kills:
        return agent_kills.run(lab(), arguments.agent_kills, arguments.seed, as_json=arguments.json)
    folder = arguments.folder or lab().folder / lab().state.name.replace("builds-", "run-")
    try:
        scenario = Scenario(folder) if (folder / FACTS).exists() else _record(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix="scratch-") as scratch:
            call = Run(arguments, scenario, Path(scratch))
            kinds = call.judge()
            if arguments.boots or arguments.errors or arguments.odd or arguments.kills:
                with servers(folder, scenario.facts) as (server, canary):
                    server.folder = folder / f"repository-{scenario.directions[0].expectation.new}"
                    judge = Judge(scenario.origin, server, canary)
                    call.boot(kinds, judge)
                    call.live(judge)
    except HostctlError as error:
        print(f"script/faults: {error.brief}\n{error.details or ''}", file=sys.stderr)
        return 2
    if arguments.json:
        groups = sorted({row.group for row in call.results.rows.values()})
        document = {group: figures(call.results.of(group)) for group in groups}
        print(json.dumps({"figures": document, "broken": [asdict(row) for row in call.results.broken]}, indent=1))
    else:
        print(report(call.results))
    return 1 if call.results.broken else 0


def _record(folder: Path) -> Scenario:
    partial = folder.with_suffix(f".{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    record(lab(), partial)
    partial.rename(folder)
    return Scenario(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
