"""Which of the things that a failed boot left is believed, and that they are removed once they are noted."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.agent import aftermath, generation, pending, spare
from hostctl.agent.aftermath import Aftermath, collect
from hostctl.agent.generation import Draft, Stored
from hostctl.agent.stage import HostStager, Rendered
from hostctl.boot.last_words import Words
from hostctl.config.load import parse_host
from hostctl.layout import HostLayout
from hostctl.update.history import GIVEN_UP

HASH = "ab" * 32
DUMP = Words(cause="Kernel panic - not syncing: x", lines=("[ 1.0] Kernel panic - not syncing: x",))
JOURNAL = f"""#!/bin/sh
case "$*" in
    *--boot=-3*--dmesg*) echo "Command line: roothash={HASH} hostctl.release=edge_2" ;;
    *--dmesg*) echo "Command line: roothash=cc hostctl.release=edge_1" ;;
    *--unit=chatty.service*) for n in $(seq 30); do echo "{{\\"MESSAGE\\": \\"chat $n\\"}}"; done ;;
    *--boot=-3*) echo '{{"MESSAGE": "hostctl: not healthy, or not in time: restarting", "PRIORITY": "6"}}' ;;
    *) echo '{{"MESSAGE": "of another boot", "PRIORITY": "0"}}' ;;
esac
"""


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/journalctl"
    program.parent.mkdir()
    program.write_text(JOURNAL)
    program.chmod(0o755)
    monkeypatch.setattr("hostctl.run.ENVIRONMENT", {"PATH": f"{program.parent}:/usr/bin:/bin"})


def left(root: Path) -> HostLayout:
    """Return a machine on which a boot panicked and the initrd repaired the ESP."""
    layout = HostLayout(root=root)
    records = root / "sys/fs/pstore"
    for folder in (records, layout.state, layout.runtime):
        folder.mkdir(parents=True)
    (records / "dmesg-efi_pstore-170000000001001").write_bytes(f"Panic#1 Part1\n<0>{DUMP.lines[0]}\n".encode())
    (records / "console-ramoops-0").write_bytes(b"not ours")
    (layout.runtime / "mended-esp").write_bytes(b"fsck.fat 4.2\n\nDirty bit is set.\n")
    return layout


def test_everything_is_found_once(tmp_path: Path) -> None:
    layout = left(tmp_path)
    found = collect(layout)
    assert found.dump == DUMP
    (mended,) = found.mended
    assert (mended.what, mended.lines) == ("the EFI system partition", ("fsck.fat 4.2", "Dirty bit is set."))
    found.forget()
    again = collect(layout)
    assert (again.dump, again.reason, again.mended) == (None, None, ())
    assert [path.name for path in (tmp_path / "sys/fs/pstore").iterdir()] == ["console-ramoops-0"]
    assert collect(HostLayout(root=tmp_path / "nothing")).dump is None


@pytest.mark.usefixtures("journalctl")
@pytest.mark.parametrize(
    ("dump", "reason", "cause"),
    [
        (DUMP, (HASH, "the root does not match its root hash"), "the root does not match its root hash"),
        (DUMP, (HASH, aftermath.CAME_UP_NOT), DUMP.cause),
        (DUMP, ("cd" * 32, "no root partition"), DUMP.cause),
        (None, (HASH, aftermath.CAME_UP_NOT), aftermath.CAME_UP_NOT),
        (None, None, aftermath.NOT_IN_TIME),
    ],
)
def test_the_first_hand_is_believed(
    tmp_path: Path, dump: Words | None, reason: tuple[str, str] | None, cause: str
) -> None:
    found = Aftermath(layout=HostLayout(root=tmp_path), dump=dump, reason=reason)
    assert found.explain(HASH).cause == cause


@pytest.mark.usefixtures("journalctl")
def test_the_journal_is_that_of_the_release(tmp_path: Path) -> None:
    found = Aftermath(layout=HostLayout(root=tmp_path))
    assert found.explain(HASH).lines == ("hostctl: not healthy, or not in time: restarting",)
    assert found.explain("ef" * 32) == Words(cause=GIVEN_UP)
    assert aftermath.unit_lines(["probe.service"]) == ("of another boot",)


@pytest.mark.usefixtures("journalctl")
def test_a_unit_that_says_much_does_not_hide_the_others() -> None:
    lines = aftermath.unit_lines(["probe.service", "chatty.service"])
    assert lines == ("of another boot", *(f"chat {number}" for number in range(21, 31)))
    assert len(aftermath.unit_lines(["chatty.service"] * 100)) == aftermath.UNIT_LINES


def test_without_a_journal_there_are_no_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hostctl.run.ENVIRONMENT", {"PATH": str(tmp_path)})
    assert aftermath.unit_lines([]) == ()


def stored(layout: HostLayout, number: int, text: str) -> Stored:
    stager = HostStager(layout=layout, release="2", workloads=lambda declaration, former, number: Rendered())
    made = generation.store(layout, stager(text, parse_host(text, "host.yaml"), None, Draft(number=number)))
    generation.put_in_force(layout, number)
    return made


def test_the_declaration_is_kept_beside_the_boot_entries(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    spare.keep(layout)
    stored(layout, 1, "version: 1\nhostname: a\n")
    spare.keep(layout)
    assert not layout.spare_declaration.exists()
    (layout.esp / "EFI").mkdir(parents=True)
    spare.keep(layout)
    assert layout.spare_declaration.read_text() == "version: 1\nhostname: a\n"
    written = layout.spare_declaration.stat().st_mtime_ns
    spare.keep(layout)
    assert layout.spare_declaration.stat().st_mtime_ns == written
    stored(layout, 2, "version: 1\nhostname: b\n")
    spare.keep(layout)
    assert layout.spare_declaration.read_text() == "version: 1\nhostname: b\n"


def test_the_copy_is_renewed_before_a_change_counts_as_settled(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    stored(layout, 1, "version: 1\nhostname: a\n")
    (layout.esp / "EFI").mkdir(parents=True)
    layout.spare_declaration.parent.mkdir()
    half = layout.spare_declaration.with_name(f".{layout.spare_declaration.name}.01234567.tmp")
    half.write_text("version")
    (layout.state / "pending").mkdir()  # whatever ends it there
    with pytest.raises(OSError, match="pending"):
        pending.settle(layout)
    assert layout.spare_declaration.read_text() == "version: 1\nhostname: a\n"
    assert not half.exists()
