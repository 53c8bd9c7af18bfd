"""Images under a tag are renewed: what is tried, what is remembered, and what is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from hostctl.agent import generation, renewal
from hostctl.agent.apply import ApplyError, NotWrittenError
from hostctl.agent.exclusive import BusyError
from hostctl.agent.generation import Content, Pin, Record, Renewed, Stored
from hostctl.agent.health import Result
from hostctl.agent.outcome import Outcome
from hostctl.agent.renewal import Refusal, Renewer
from hostctl.cli import auto_update
from hostctl.config.values import ImageReference
from hostctl.errors import HostctlError
from hostctl.image.refusal import PullError
from hostctl.image.room import NoRoomError
from hostctl.layout import HostLayout
from hostctl.update import history

TEXT = """
version: 1
hostname: a
workloads:
  site: {image: 'r.example/site:1', auto_update: true}
  again: {image: 'r.example/site:1', auto_update: true}
  db: {image: 'r.example/db:1', auto_update: true}
  fixed: {image: 'r.example/site:1'}
"""
SITE, DB = "r.example/site:1", "r.example/db:1"
OLD, NEW, NEWER = ("sha256:" + letter * 64 for letter in "123")


@dataclass
class Registry:
    """What the tags stand for; one without an entry does not answer."""

    tags: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def look_up(self, reference: ImageReference) -> str:
        self.asked.append(str(reference))
        if str(reference) not in self.tags:
            raise PullError(f"looking up {reference}: no answer")
        return self.tags[str(reference)]


class Host:
    """Makes a generation of what is applied, unless ``bad`` says why not."""

    def __init__(self, layout: HostLayout) -> None:
        self.layout = layout
        self.registry = Registry({SITE: OLD, DB: OLD})
        self.bad: Callable[[str], HostctlError | None] = lambda digest: None
        self.applied: list[dict[str, str]] = []
        images = {"site": SITE, "again": SITE, "db": DB, "fixed": SITE}
        self.store(1, {name: Pin(reference=reference, digest=OLD) for name, reference in images.items()})

    def store(self, number: int, images: dict[str, Pin]) -> None:
        record = Record(number=number, created="", release="1", declaration_sha256="", images=images)
        generation.store(self.layout, Content(record=record, declaration=TEXT, etc={}, bundles={}, network=b"{}"))
        generation.put_in_force(self.layout, number)

    def apply(self, stored: Stored, renewed: Renewed) -> Outcome:
        assert stored.record.number == renewed.generation
        self.applied.append({name: pin.digest for name, pin in renewed.pins.items()})
        for pin in renewed.pins.values():
            error = self.bad(pin.digest)
            if error is not None:
                raise error
        self.store(stored.record.number + 1, {**stored.record.images, **renewed.pins})
        return Outcome(generation=stored.record.number + 1, former=stored.record.number, actions=())

    @property
    def renewer(self) -> Renewer:
        return Renewer(layout=self.layout, look_up=self.registry.look_up, apply=self.apply, release="7")

    def results(self) -> dict[str, str]:
        return {each.workload: each.result for each in self.renewer.run()}


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    return HostLayout(root=tmp_path)


@pytest.fixture
def host(layout: HostLayout) -> Host:
    return Host(layout)


def taken_back(*late: Result) -> ApplyError:
    return ApplyError("generation 2 was taken back: it is not healthy", details="workload site: failed", late=late)


SITE_LATE, AGAIN_LATE, DB_LATE = (
    Result(kind="workload", name=name, ok=False, detail="failed", final=True) for name in ("site", "again", "db")
)
CHECK_LATE = Result(kind="check", name="site", ok=False, detail="status 500")


def unhealthy(digest: str) -> Callable[[str], HostctlError | None]:
    error = taken_back(SITE_LATE, AGAIN_LATE)
    return lambda asked: error if asked == digest else None


def test_what_did_not_move_is_left_alone_and_a_tag_is_asked_for_once(host: Host) -> None:
    assert host.results() == {"site": "current", "again": "current", "db": "current"}
    assert host.registry.asked == [SITE, DB]
    assert host.applied == []


def test_looking_changes_nothing(host: Host) -> None:
    host.registry.tags[SITE] = NEW
    looked = {each.workload: (each.result, each.digest, each.found) for each in host.renewer.look()}
    assert looked == {"site": ("new", OLD, NEW), "again": ("new", OLD, NEW), "db": ("current", OLD, OLD)}
    assert host.applied == []
    assert history.read(host.layout.state / "history.jsonl") == ()


def test_workloads_are_renewed_one_after_the_other(host: Host) -> None:
    host.registry.tags[SITE] = NEW
    assert host.results() == {"site": "renewed", "again": "renewed", "db": "current"}
    assert host.applied == [{"site": NEW}, {"again": NEW}]
    stored = generation.current(host.layout)
    assert stored is not None
    assert stored.record.images["fixed"].digest == OLD
    told = history.read(host.layout.state / "history.jsonl")
    assert [(event.event, event.version) for event in told] == [("renewed", "7")] * 2
    assert told[0].cause == f"workload site: {SITE} sha256:{'1' * 12} → sha256:{'2' * 12}, generation 2"
    assert host.results() == dict.fromkeys(("site", "again", "db"), "current")


def test_an_image_that_was_taken_back_is_not_tried_again_until_the_tag_moves_on(host: Host) -> None:
    host.registry.tags[SITE] = NEW
    host.bad = unhealthy(NEW)
    assert host.results()["site"] == "failed"
    assert host.applied == [{"site": NEW}, {"again": NEW}]
    (told, _) = history.read(host.layout.state / "history.jsonl")
    assert told.event == "not-renewed"
    assert "workload site: failed" in told.cause
    host.applied.clear()
    (again, *_) = host.renewer.run()
    assert (again.result, host.applied) == ("refused", [])
    assert "was taken back" in again.cause
    del host.registry.tags[SITE]
    assert host.results()["site"] == "unknown"
    host.registry.tags[SITE] = NEW
    assert host.results()["site"] == "refused"
    host.registry.tags[SITE] = OLD  # the tag has moved on, if only back
    assert host.results()["site"] == "current"
    assert renewal.read(host.layout) == {}
    host.registry.tags[SITE] = NEWER
    assert host.results()["site"] == "renewed"


@pytest.mark.parametrize(
    "error",
    [
        PullError("no answer"),
        NoRoomError("the disk is full"),
        pytest.param(taken_back(DB_LATE), id="another-workload"),
        pytest.param(taken_back(CHECK_LATE), id="a-check-of-the-same-name"),
        pytest.param(taken_back(), id="the-system"),
        pytest.param(NotWrittenError("generation 2 could not be written: No space left on device"), id="not-written"),
    ],
)
def test_what_is_not_the_images_fault_is_tried_again(host: Host, error: HostctlError) -> None:
    host.registry.tags[SITE] = NEW
    host.bad = lambda digest: error
    assert host.results()["site"] == "unknown"
    assert renewal.read(host.layout) == {}
    host.bad = lambda digest: None
    assert host.results()["site"] == "renewed"


def test_an_image_is_to_blame_when_its_workload_is_among_what_was_late(host: Host) -> None:
    host.registry.tags[SITE] = NEW
    host.bad = lambda digest: taken_back(DB_LATE, SITE_LATE)
    assert host.results() == {"site": "failed", "again": "unknown", "db": "current"}
    assert set(renewal.read(host.layout)) == {"site"}


def test_a_registry_that_does_not_answer_keeps_no_other_from_it(host: Host) -> None:
    del host.registry.tags[SITE]
    host.registry.tags[DB] = NEW
    assert host.results() == {"site": "unknown", "again": "unknown", "db": "renewed"}
    assert host.registry.asked == [SITE, DB]


def test_another_change_is_not_undone(host: Host) -> None:
    host.registry.tags[SITE] = NEW
    host.bad = lambda digest: BusyError("generation 9 came between")
    with pytest.raises(BusyError):
        host.renewer.run()
    assert renewal.read(host.layout) == {}


def test_a_refusal_is_of_a_name_and_a_digest() -> None:
    pin, refusal = Pin(reference=SITE, digest=OLD), Refusal(reference=SITE, digest=NEW, time="t", cause="c")
    assert renewal.judge("site", pin, NEW, refusal).result == "refused"
    assert renewal.judge("site", pin, NEWER, refusal).result == "new"
    assert renewal.judge("site", Pin(reference="r.example/x:1", digest=OLD), NEW, refusal).result == "new"


@pytest.mark.parametrize("data", [b"", b"[]", b'{"site": 1}', b'{"site": {}}', b"\xff"])
def test_a_damaged_memory_is_none(layout: HostLayout, data: bytes) -> None:
    layout.state.mkdir(parents=True)
    layout.refused_images.write_bytes(data)
    assert renewal.read(layout) == {}


def test_the_verb_shows_what_came_of_it(host: Host) -> None:
    host.registry.tags[SITE] = NEW
    host.bad = unhealthy(NEW)
    rows = [asdict(each) for each in host.renewer.run()]
    lines = auto_update.text(rows).splitlines()
    assert lines[0].split() == ["WORKLOAD", "IMAGE", "RUNS", "FOUND", "RESULT"]
    assert lines[1].split() == ["site", SITE, "sha256:" + "1" * 12, "sha256:" + "2" * 12, "failed"]
    assert lines[4].startswith("site: generation 2 was taken back")
    assert auto_update.status(rows) == 1
    assert auto_update.status([{**rows[0], "result": "unknown"}]) == 69
    assert auto_update.status([{**rows[0], "result": "refused"}]) == 0
    assert auto_update.text([]) == "no workload declares auto_update"
