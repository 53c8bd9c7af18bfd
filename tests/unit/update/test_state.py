from __future__ import annotations

from pathlib import Path

from hostctl.boot.entries import parse_entries
from hostctl.layout import HostLayout
from hostctl.update import journal, state
from hostctl.update.journal import Line
from hostctl.update.state import Failure

GOOD = ("host_1.efi", "host_2.efi")


def line(event: str, stage: str = "", cause: str = "") -> Line:
    return Line(time="t", event=event, version="3", stage=stage, cause=cause)


def derive(names: tuple[str, ...], *lines: Line, running: str = "2", busy: str = "") -> list[str]:
    found = state.derive(running=running, entries=parse_entries(names, "host"), lines=lines, busy=busy)
    return state.sentences(found)


def test_nothing_to_tell() -> None:
    done = (line(journal.STARTED), line(journal.FAILED, "root", "x"), line(journal.STARTED), line(journal.FINISHED))
    assert derive(GOOD) == derive((), *done) == []


def test_staged_and_tried() -> None:
    names = ("host_2.efi", "host_3+3.efi")
    assert derive(names) == ["3 is staged, the next boot tries it"]
    assert derive(("host_2.efi", "host_3+2-1.efi"), running="3") == ["this boot is a trial, 2 more if it fails"]
    last = "this boot is a trial, the last one: if it fails, 2 is next"
    assert derive(("host_2.efi", "host_3+0-1.efi"), running="3") == [last]
    assert derive(("host_2.efi", "host_3+0.efi"), running="3") == ["2 is staged, the next boot tries it"]
    assert derive(("host_2.efi", "host_3+0-3.efi")) == []


def test_cut_off_and_at_work() -> None:
    lines = (line(journal.STARTED), line(journal.DONE, "start"), line(journal.DONE, "root"))
    assert derive(GOOD, *lines) == ["to 3 was cut off after root; `hostctl update` goes on"]
    assert derive(GOOD, *lines, busy="somebody") == ["somebody is at work, at root of 3"]
    assert derive(GOOD, busy="somebody") == ["somebody is at work"]


def test_failed() -> None:
    lines = (line(journal.STARTED), line(journal.FAILED, "tree", "no space"))
    assert derive(GOOD, *lines) == ["to 3 failed at tree: no space (t)"]
    found = state.derive(running="2", entries=(), lines=lines)
    assert found.failure == Failure(version="3", stage="tree", cause="no space", time="t")


def test_a_look_at_the_repository_changes_nothing_but_its_own_failure() -> None:
    cut = (line(journal.STARTED), line(journal.DONE, "start"))
    looked, deaf = line(journal.DONE, "metadata"), line(journal.FAILED, "metadata", "unreachable")
    assert derive(GOOD, *cut, looked) == derive(GOOD, *cut)
    assert derive(GOOD, deaf) == ["to 3 failed at metadata: unreachable (t)"]
    assert derive(GOOD, deaf, looked) == []
    assert derive(GOOD, line(journal.FAILED, "root", "x"), deaf, looked) == ["to 3 failed at root: x (t)"]


def test_read_from_a_host(tmp_path: Path) -> None:
    layout = HostLayout(tmp_path)
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("IMAGE_ID=host\nIMAGE_VERSION=2\n")
    nothing = state.read(layout)
    assert state.sentences(nothing) == []
    (tmp_path / "efi/EFI/Linux").mkdir(parents=True)
    (tmp_path / "efi/EFI/Linux/host_3+3.efi").write_bytes(b"kernel")
    (tmp_path / "efi/EFI/Linux/host_4+3.efi").touch()
    journal.Journal(layout.state / "update.jsonl").add(line(journal.FAILED, "root", "why"))
    found = state.read(layout)
    assert (found.staged, found.trial) == ("3", None)
    assert found.failure is not None
