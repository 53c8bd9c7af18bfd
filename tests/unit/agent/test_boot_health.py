"""What a boot that is or is not healthy leads to."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from hostctl.agent import exclusive, generation, pending, withheld
from hostctl.agent.apply import Context
from hostctl.agent.boot_health import BootEdge, check_boot, concerned
from hostctl.agent.generation import Draft
from hostctl.agent.health import Report, Result
from hostctl.agent.machine import SystemdMachine, Verb
from hostctl.agent.stage import HostStager, Rendered
from hostctl.config.load import parse_host
from hostctl.layout import HostLayout
from hostctl.update import history

from .test_apply import busy


class FakeLoader:
    """A boot loader that counts, or not."""

    def __init__(self, *, counts: bool) -> None:
        self.counts = counts
        self.log: list[str] = []

    def edge(self) -> BootEdge:
        return BootEdge(
            tries=lambda: int(self.counts),
            mark_bad=lambda: self.log.append("bad"),
            reboot=lambda: self.log.append("reboot"),
            digests=lambda: {"2": "22", "3": "33"},
            root_hash="22",
            options=lambda entries: self.log.append(f"{len(entries)} entries"),
            unit_lines=lambda units: tuple(units) or ("no unit",),
            steady=0.0,
        )


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def prepared(root: Path, port: int) -> Context:
    """Return a machine whose generation 1 checks a TCP port; it was rendered during this boot."""
    layout = HostLayout(root=root)
    stager = HostStager(layout=layout, release="2", workloads=lambda declaration, former, number: Rendered())
    context = Context(layout=layout, machine=SystemdMachine(layout), stage=stager, release="2", booting=True)
    text = f"version: 1\nhostname: a\nhealth: {{site: {{tcp: '127.0.0.1:{port}', within: 10ms}}}}\n"
    generation.store(layout, stager(text, parse_host(text, "host.yaml"), None, Draft(number=1)))
    generation.put_in_force(layout, 1)
    (layout.state / "pending").write_text('{"former": 0, "wanted": 1, "booting": true}')
    return context


@pytest.mark.parametrize("counts", [True, False])
def test_a_healthy_boot_settles_what_was_rendered_during_it(tmp_path: Path, port: int, counts: bool) -> None:
    context, loader = prepared(tmp_path, port), FakeLoader(counts=counts)
    verdict, report = check_boot(context, loader.edge())
    assert (verdict, report.healthy, loader.log) == ("healthy", True, ["0 entries"])
    assert pending.read(context.layout) is None


@pytest.mark.parametrize("counts", [True, False])
def test_nobody_is_waited_for_when_nothing_is_to_be_taken_back(tmp_path: Path, port: int, counts: bool) -> None:
    context, loader = prepared(tmp_path, port), FakeLoader(counts=counts)
    with exclusive.lock(context.layout):
        assert check_boot(context, loader.edge())[0] == "healthy"


def test_who_changes_the_machine_is_waited_for_before_something_is_taken_back(tmp_path: Path, port: int) -> None:
    context, told = prepared(tmp_path, port), list[str]()
    pending.mark(context.layout, pending.Pending(former=1, wanted=7))  # killed before it could write that
    with busy(context.layout) as free:

        def notify(text: str) -> None:
            told.append(text)
            free.set()

        verdict, _ = check_boot(replace(context, notify=notify), FakeLoader(counts=True).edge())
    assert (verdict, told[0]) == ("healthy", "waiting for another change of this machine")
    assert pending.read(context.layout) is None


def test_a_change_that_is_begun_meanwhile_is_left_to_who_began_it(tmp_path: Path, port: int) -> None:
    context, loader = prepared(tmp_path, port), FakeLoader(counts=False)
    begun = pending.Pending(former=1, wanted=2)

    def tries() -> int:
        pending.mark(context.layout, begun)
        return 0

    assert check_boot(context, replace(loader.edge(), tries=tries))[0] == "healthy"
    assert pending.read(context.layout) == begun


def test_a_blessed_trial_and_a_release_that_never_came_up_are_remembered(tmp_path: Path, port: int) -> None:
    context, loader = prepared(tmp_path, port), FakeLoader(counts=True)
    entries = context.layout.esp / "EFI/Linux"
    entries.mkdir(parents=True)
    for name in ("edge_1.efi", "edge_2+2-1.efi", "edge_3+0-3.efi"):
        (entries / name).touch()
    (context.layout.state / "boots").write_text("hash 2\n")
    for _ in range(2):
        check_boot(context, loader.edge())
    events = history.read(context.layout.state / "history.jsonl")
    assert [(event.event, event.version, event.root_hash) for event in events] == [
        (history.BAD, "3", "33"),
        (history.BLESSED, "2", "22"),
        (history.BLESSED, "2", "22"),
    ]
    assert not (context.layout.state / "boots").exists()
    assert (context.layout.runtime / "healthy").exists()


def test_a_release_on_trial_is_given_up_with_its_cause(tmp_path: Path) -> None:
    context, loader = prepared(tmp_path, 1), FakeLoader(counts=True)
    verdict, _ = check_boot(context, loader.edge())
    assert (verdict, loader.log) == ("bad", ["bad", "reboot"])
    (event,) = history.read(context.layout.state / "history.jsonl")
    assert (event.event, event.version, event.root_hash) == (history.BAD, "2", "22")
    assert "check site: 127.0.0.1:1" in event.cause
    assert event.lines == ("no unit",)


@pytest.mark.parametrize(("good", "log"), [(True, ["0 entries"]), (False, ["bad", "reboot"])])
def test_a_disk_that_takes_nothing_keeps_no_release_from_its_verdict(
    tmp_path: Path, port: int, good: bool, log: list[str]
) -> None:
    context, loader, told = prepared(tmp_path, port if good else 1), FakeLoader(counts=True), list[str]()
    (context.layout.state / "history.jsonl").symlink_to("/dev/full")
    (context.layout.state / "boots").mkdir()  # which no unlink removes
    verdict, _ = check_boot(replace(context, notify=told.append), loader.edge())
    assert (verdict, loader.log) == ("healthy" if good else "bad", log)
    assert any("No space left on device" in line and ("blessed" if good else "bad") in line for line in told)
    assert (context.layout.runtime / "healthy").exists() == good


def test_the_last_try_is_judged_by_its_health(tmp_path: Path) -> None:
    context, loader = prepared(tmp_path, 1), FakeLoader(counts=True)
    entry = context.layout.esp / "EFI/Linux/edge_2+0-1.efi"
    entry.parent.mkdir(parents=True)
    entry.touch()
    check_boot(context, loader.edge())
    (event,) = history.read(context.layout.state / "history.jsonl")
    assert "check site" in event.cause


def test_a_blessed_release_stays_up_degraded(tmp_path: Path) -> None:
    context, loader = prepared(tmp_path, 1), FakeLoader(counts=False)
    verdict, report = check_boot(context, loader.edge())
    assert (verdict, report.healthy, loader.log) == ("degraded", False, ["0 entries"])
    assert not (context.layout.state / "history.jsonl").exists()
    assert pending.read(context.layout) is None


def test_nothing_declared_is_healthy(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    stager = HostStager(layout=layout, release="2", workloads=lambda declaration, former, number: Rendered())
    context = Context(layout=layout, machine=SystemdMachine(layout), stage=stager, release="2", booting=True)
    assert check_boot(context, FakeLoader(counts=True).edge())[0] == "healthy"


class Starting(SystemdMachine):
    """A machine that only notes what is to be started."""

    def __init__(self, layout: HostLayout) -> None:
        super().__init__(layout)
        self.started: list[str] = []

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        assert (verb, block) == ("start", False)
        self.started += names


@pytest.mark.parametrize("counts", [True, False])
def test_a_boot_without_images_is_degraded_and_no_release_is_given_up(tmp_path: Path, port: int, counts: bool) -> None:
    context, loader = prepared(tmp_path, 1), FakeLoader(counts=counts)
    machine = Starting(context.layout)
    context = replace(context, machine=machine)
    layout, less = context.layout, "version: 1\nhostname: a\n"
    whole = less + "workloads: {site: {image: r.example/w:1, required: true}}\n"
    generation.store(layout, context.stage(whole, parse_host(less, "x"), None, Draft(number=2, withheld=True)))
    generation.put_in_force(layout, 2)
    verdict, report = check_boot(context, loader.edge())
    assert (verdict, report.healthy, loader.log) == ("degraded", False, ["0 entries"])
    assert "wait for their images" in report.cause()
    assert machine.started == [withheld.UNIT]
    assert pending.read(layout) is None
    assert (layout.runtime / "healthy").exists()  # so that the deadline does not end the boot
    generation.put_in_force(layout, 1)  # whole, but its check does not pass
    assert check_boot(context, loader.edge())[0] == "degraded"
    assert history.read(layout.state / "history.jsonl") == ()
    fine = f"version: 1\nhostname: a\nhealth: {{site: {{tcp: '127.0.0.1:{port}'}}}}\n"
    generation.store(layout, context.stage(fine, parse_host(fine, "x"), None, Draft(number=3)))
    generation.put_in_force(layout, 3)
    assert check_boot(context, loader.edge())[0] == "healthy"
    blessed = [event.event for event in history.read(layout.state / "history.jsonl")]
    assert blessed == ([history.BLESSED] if counts else [])
    assert loader.log == ["0 entries"] * 3


@pytest.mark.parametrize("counts", [True, False])
def test_a_declaration_that_did_not_come_into_force_is_not_healthy(tmp_path: Path, counts: bool) -> None:
    layout, loader = HostLayout(root=tmp_path), FakeLoader(counts=counts)
    stager = HostStager(layout=layout, release="2", workloads=lambda declaration, former, number: Rendered())
    context = Context(layout=layout, machine=SystemdMachine(layout), stage=stager, release="2", booting=True)
    layout.given_declaration.parent.mkdir(parents=True)
    layout.given_declaration.touch()
    verdict, report = check_boot(context, loader.edge())
    assert (verdict, report.healthy, loader.log) == ("degraded", False, ["0 entries"])
    assert "hostctl-firstboot.service" in report.cause()
    assert not (layout.state / "history.jsonl").exists()


@pytest.mark.parametrize("last", [True, False])
def test_a_last_try_is_not_lost_to_what_no_release_can_mend(tmp_path: Path, last: bool) -> None:
    layout, loader = HostLayout(root=tmp_path), FakeLoader(counts=True)
    stager = HostStager(layout=layout, release="2", workloads=lambda declaration, former, number: Rendered())
    context = Context(layout=layout, machine=SystemdMachine(layout), stage=stager, release="2", booting=True)
    layout.given_declaration.parent.mkdir(parents=True)
    layout.given_declaration.touch()
    layout.state.mkdir(parents=True)
    assert check_boot(context, replace(loader.edge(), keep_last_try=lambda: last))[0] == "degraded"
    events = history.read(layout.state / "history.jsonl")
    assert [(event.event, event.version) for event in events] == ([(history.BLESSED, "2")] if last else [])


def test_the_machine_id_stays_and_numbers_of_users_too(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    stager = HostStager(layout=layout, release="2", workloads=lambda declaration, former, number: Rendered())
    one, two = "version: 1\nhostname: a\nusers: {b: {}}\n", "version: 1\nhostname: a\nusers: {a: {}, b: {}}\n"
    first = generation.store(layout, stager(one, parse_host(one, "x"), None, Draft(number=1)))
    second = stager(two, parse_host(two, "x"), first, Draft(number=2))
    assert dict(second.record.uids) == {"b": 1000, "a": 1001}
    assert (first.path / "etc/machine-id").read_text() == "0123456789abcdef0123456789abcdef\n"
    generation.store(layout, second)
    other = "version: 1\nhostname: a\nusers: {b: {}, c: {}}\n"
    back = stager(other, parse_host(other, "x"), first, Draft(number=3))
    assert back.record.uids == {"b": 1000, "a": 1001, "c": 1002}, "2 was gone back from, and its user has files"
    (tmp_path / "etc/machine-id").write_text("uninitialized\n")
    third = generation.store(layout, stager(one, parse_host(one, "x"), None, Draft(number=3)))
    fresh = (third.path / "etc/machine-id").read_text().strip()
    assert len(fresh) == 32
    assert fresh != "0" * 32


DECLARED = """version: 1
hostname: a
workloads:
  site: {image: r.example/w:1, required: true}
  lone: {image: r.example/w:1, required: true, network: none}
health: {probe: {unit: probe.service}}
"""


@pytest.mark.parametrize(
    ("failed", "units"),
    [
        ([("workload", "site")], ("hostctl-network.service", "workload-site.service")),
        ([("workload", "lone")], ("workload-lone.service",)),
        (
            [("check", "probe"), ("workload", "site")],
            ("hostctl-network.service", "probe.service", "workload-site.service"),
        ),
    ],
)
def test_units_that_a_failure_is_about(
    failed: list[tuple[Literal["check", "workload"], str]], units: tuple[str, ...]
) -> None:
    results = tuple(Result(kind=kind, name=name, ok=False, detail="") for kind, name in failed)
    assert concerned(Report(results=results), parse_host(DECLARED, "host.yaml")) == units
