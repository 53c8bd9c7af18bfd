"""A workload is committed: kept still while it is read, refused where nothing can differ, and never left frozen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hostctl_lab.images import layout as make_layout

from hostctl.agent import generation, pausing
from hostctl.agent.bus import Call
from hostctl.agent.commit_method import CommitService, decode, require_same
from hostctl.agent.exclusive import BusyError, lock
from hostctl.agent.generation import Content, Pin, Record
from hostctl.agent.machine import SystemdMachine, UnitState, Verb
from hostctl.agent.overview import NotRunningError, UnknownWorkloadError
from hostctl.agent.pausing import Freezer
from hostctl.errors import UsageError
from hostctl.image.store import ImageStore
from hostctl.layout import HostLayout
from hostctl.workload.identity import range_start
from hostctl.workload.upper import UpperError

HOST = """\
version: 1
hostname: a
workloads:
  run-tool: {image: "r.example/box:1"}
  fixed: {image: "r.example/box:1", read_only: true}
"""
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what a workload wrote has other owners")


def _plain(output: Path) -> tuple[str, ...]:
    return ("sh", "-c", f"cat >{output}")


class Running(SystemdMachine):
    """A machine whose workloads all are in one state."""

    active, paused = "active", False

    def __init__(self, layout: HostLayout) -> None:
        super().__init__(layout)
        self.log: list[str] = []

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Return the same for all."""
        more = {"sub": "", "result": "", "main_pid": 7, "restarts": 0, "active_for": 0.0, "paused": self.paused}
        return {name: UnitState(name=name, active=self.active, **more) for name in names}  # type: ignore[arg-type]

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """Note it."""
        self.log += [f"{verb} {name}" for name in names]


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    """Return a host with a workload that has written a file."""
    layout = HostLayout(root=tmp_path / "root")
    digest = make_layout(tmp_path / "box", b"base")
    ImageStore(layout.images).add(tmp_path / "box", digest, "r.example/box:1", make=_plain)
    names = ("run-tool", "fixed")
    record = Record(
        number=1,
        created="",
        release="7",
        declaration_sha256="",
        images={name: Pin(reference="r.example/box:1", digest=digest) for name in names},
        ranges={name: index for index, name in enumerate(names)},
    )
    generation.store(layout, Content(record=record, declaration=HOST, etc={}, bundles={}, network=b"{}"))
    generation.put_in_force(layout, 1)
    upper = layout.workloads / "run-tool/upper"
    upper.mkdir(parents=True)
    (upper / "note").write_text("kept")
    os.chown(upper / "note", range_start(0) + 3, range_start(0))
    return layout


class Commits:
    """Commits, and keeps what was done to the machine meanwhile."""

    def __init__(self, layout: HostLayout) -> None:
        self.machine = Running(layout)
        log = self.machine.log
        freezer = Freezer(lambda unit: log.append(f"freeze {unit}"), lambda unit: log.append(f"thaw {unit}"))
        (self.method,) = CommitService(layout, self.machine, freezer=freezer, make=_plain).methods()

    def __call__(self, name: str, target: str = "", **request: object) -> Mapping[str, object]:
        """Commit a workload."""
        assert (self.method.name, self.method.root_only, self.method.strings) == ("Commit", True, 3)
        call = Call(uid=0, arguments=(name, target, json.dumps(request)), descriptors=(), notify=lambda text: None)
        document: Mapping[str, object] = json.loads(self.method.handler(call))
        return document


STILL = [
    "stop workload-run-tool.health.timer",
    "stop workload-run-tool.health.service",
    "freeze workload-run-tool.service",
    "thaw workload-run-tool.service",
    "start workload-run-tool.health.timer",
]


def test_what_was_written_becomes_an_image(layout: HostLayout) -> None:
    commits = Commits(layout)
    made = commits("run-tool", "tool:2", message="m", author="a")
    assert (made["reference"], made["skipped"]) == ("docker.io/library/tool:2", [])
    assert commits.machine.log == STILL
    image = ImageStore(layout.images).get(str(made["digest"]))
    assert image is not None
    assert len(image.layers) == 2
    assert not list((layout.images / "tmp").iterdir())
    assert not list((layout.runtime / "still").iterdir())
    assert commits("run-tool")["id"] != made["id"], "other words"
    assert commits("run-tool", "tool:3", message="m", author="a")["id"] == made["id"]


def test_one_that_is_paused_or_must_not_be_paused_is_left_alone(layout: HostLayout) -> None:
    commits = Commits(layout)
    commits("run-tool", pause=False)
    commits.machine.paused = True
    commits("run-tool")
    assert commits.machine.log == []


def test_whatever_goes_wrong_it_runs_on(layout: HostLayout) -> None:
    commits = Commits(layout)
    os.chown(layout.workloads / "run-tool/upper/note", 0, 0)
    with pytest.raises(UpperError, match="not the workload's"):
        commits("run-tool")
    assert commits.machine.log == STILL
    assert not list((layout.images / "tmp").iterdir())


def test_where_nothing_can_differ_it_is_said(layout: HostLayout) -> None:
    with pytest.raises(UpperError, match="read_only") as caught:
        Commits(layout)("fixed")
    assert "hostctl tag" in caught.value.hint
    commits = Commits(layout)
    commits.machine.active = "inactive"
    with pytest.raises(NotRunningError, match="not running"):
        commits("run-tool")
    with pytest.raises(UnknownWorkloadError):
        Commits(layout)("nope")
    with pytest.raises(UsageError, match="has a digest"):
        Commits(layout)("run-tool", f"tool@sha256:{'1' * 64}")
    with lock(layout), pytest.raises(BusyError):
        Commits(layout)("run-tool")


def test_what_a_run_that_has_ended_wrote_is_no_image(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    descriptor = os.open(upper, os.O_RDONLY)
    require_same(upper, descriptor)
    upper.rename(tmp_path / "former")
    with pytest.raises(UpperError, match="ended meanwhile"):
        require_same(upper, descriptor)
    upper.mkdir()
    with pytest.raises(UpperError, match="ended meanwhile"):
        require_same(upper, descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"pause": 1}', '{"message": 3}', '{"x": 1}', "null"])
def test_a_request_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        decode(text)


def test_what_a_dead_agent_kept_still_runs_on(layout: HostLayout) -> None:
    machine = Running(layout)
    freezer = Freezer(lambda unit: None, lambda unit: machine.log.append(f"thaw {unit}"))
    assert pausing.recover(layout, machine, freezer) == ()
    (layout.runtime / "still").mkdir(parents=True)
    (layout.runtime / "still/run-tool").touch()
    assert pausing.recover(layout, machine, freezer) == ("run-tool",)
    assert machine.log == STILL[3:]
    assert pausing.recover(layout, machine, freezer) == ()
