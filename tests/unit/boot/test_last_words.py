"""What is read out of a kernel's dump and a journal, also when they are cut off or foreign."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from hostctl.boot.last_words import Booted, Said, Words, booted_release, dump_words, parse_journal, telling_lines

HASH = "ab" * 32
OOPS = {
    "dmesg-efi_pstore-170000000001001": b"Oops#1 Part1\n<4>[   40.1] Oops: 0000 [#1] PREEMPT SMP PTI\n",
}
PANIC = {
    "dmesg-efi_pstore-170000000001002": b"Panic#2 Part1\n<0>[   41.0] Kernel panic - not syncing: Fatal exception\n"
    b"<0>[   41.1] Kernel Offset: disabled\n",
    "dmesg-efi_pstore-170000000002002": b"Panic#2 Part2\n<6>[   39.0] early\n<1>[   40.0] BUG: kernel NULL pointer\n",
}


def test_the_newest_dump_is_put_together_and_tells_of_the_panic() -> None:
    words = dump_words(OOPS | PANIC)
    assert words == Words(
        cause="Kernel panic - not syncing: Fatal exception",
        lines=(
            "[   39.0] early",
            "[   40.0] BUG: kernel NULL pointer",
            "[   41.0] Kernel panic - not syncing: Fatal exception",
            "[   41.1] Kernel Offset: disabled",
        ),
    )
    assert dump_words(OOPS) == Words(
        cause="Oops: 0000 [#1] PREEMPT SMP PTI", lines=("[   40.1] Oops: 0000 [#1] PREEMPT SMP PTI",)
    )


def test_of_a_long_dump_the_lines_around_the_panic_are_kept() -> None:
    text = "\n".join(f"<6>[ {number}.0] line {number}" for number in range(300))
    body = f"{text}\n<0>[ 300.0] Kernel panic - not syncing: VFS\n{text}"
    words = dump_words({"dmesg-ramoops-0": f"Panic#1 Part1\n{body}".encode()})
    assert words is not None
    assert words.cause == "Kernel panic - not syncing: VFS"
    assert len(words.lines) == 20
    assert words.lines[5:7] == ("[ 299.0] line 299", "[ 300.0] Kernel panic - not syncing: VFS")


def test_other_records_are_no_dump() -> None:
    assert dump_words({}) is None
    assert dump_words({"console-ramoops-0": b"Panic#1 Part1\nx", "dmesg-efi_pstore-1": b"x\ny"}) is None
    assert dump_words({"dmesg-efi_pstore-1": b"Panic#1 Part1\nnothing known\n"}) == Words(
        cause="the kernel died", lines=("nothing known",)
    )


@given(st.dictionaries(st.sampled_from([*OOPS, *PANIC, "dmesg-x-1"]), st.binary(max_size=200)))
def test_any_record_is_read(records: dict[str, bytes]) -> None:
    dump_words(records)
    parse_journal(b"\n".join(records.values()))


def test_the_lines_that_tell_are_chosen() -> None:
    records = [
        {"MESSAGE": "Started probe.", "SYSLOG_IDENTIFIER": "systemd", "PRIORITY": "6"},
        {"MESSAGE": "no route", "SYSLOG_IDENTIFIER": "probe", "PRIORITY": "3"},
        {"MESSAGE": "waiting for check probe", "SYSLOG_IDENTIFIER": "hostctl", "PRIORITY": "6"},
        {"MESSAGE": [1, 2]},
        {"MESSAGE": "hostctl: not healthy", "SYSLOG_IDENTIFIER": "echo"},
    ]
    said = parse_journal(b"\n".join(json.dumps(record).encode() for record in records) + b"\n{torn")
    assert telling_lines(said) == ("probe: no route", "hostctl: waiting for check probe", "echo: hostctl: not healthy")
    assert telling_lines(said[:1]) == ("systemd: Started probe.",)
    assert telling_lines([Said(source="", message=str(number), priority=0) for number in range(99)])[-1] == "98"
    assert len(telling_lines([said[1]] * 99)) == 20


def test_a_boot_is_told_by_its_command_line() -> None:
    line = f"Command line: roothash={HASH} hostctl.release=edge-2_2026.11.1~rc1 panic=10"
    assert booted_release(["Linux version 6", line]) == Booted(version="2026.11.1~rc1", root_hash=HASH)
    assert booted_release([f"roothash={HASH}", "hostctl.release=edge_1"]) is None
    assert booted_release([]) is None
