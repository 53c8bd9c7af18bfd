"""Logs are made by QEMU itself, so that its format is what is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostctl_qemu.attachment import NODE, Attachment, nodes
from hostctl_qemu.blocklog import BlockLogError, Request, read_log
from hostctl_qemu.replay import CLUSTER, CrashState, Replay, crash_states, epochs, requests_before
from hostctl_qemu.view import make_raw, open_disk

from hostctl.run import run

SIZE = 1 << 20
BLOCK = 4096
COMMANDS = (
    f"write -P 1 0 {BLOCK}",
    f"write -P 2 {BLOCK} {2 * BLOCK}",
    "flush",
    f"write -P 3 0 {BLOCK}",
    f"discard {BLOCK} {BLOCK}",
    f"discard {CLUSTER} {CLUSTER}",
    f"write -P 4 {8 * BLOCK} {BLOCK}",
    "flush",
    f"write -z {8 * BLOCK} 512",
    f"write -P 5 {9 * BLOCK} {4 * BLOCK}",
)


def block(*values: int) -> bytes:
    return b"".join(bytes((value,)) * BLOCK for value in values)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the disk before (base), its log, and the disk after (disk.qcow2)."""
    folder = tmp_path_factory.mktemp("log")
    base, disk, log = folder / "base", folder / "disk.qcow2", folder / "log"
    base.write_bytes(bytes((9,)) * SIZE)
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, disk], timeout=60)
    log.touch()
    below, top = nodes(disk, Attachment(log=log))
    argv = ["qemu-io", "-t", "writeback", "-d", "unmap"]
    for command in COMMANDS:
        argv += ["-c", command]
    run([*argv, f"json:{json.dumps({**top, 'file': below})}"], timeout=60)
    return folder


@pytest.fixture(scope="module")
def requests(logged: Path) -> tuple[Request, ...]:
    return tuple(read_log(logged / "log", strict=True))


def test_requests_come_as_they_were_made(requests: tuple[Request, ...]) -> None:
    kinds = [("flush" if r.flush else "discard" if r.discard else "write", r.start, r.length) for r in requests]
    assert kinds[:8] == [
        ("write", 0, BLOCK),
        ("write", BLOCK, 2 * BLOCK),
        ("flush", 0, 0),
        ("write", 0, BLOCK),
        ("discard", BLOCK, BLOCK),
        ("discard", CLUSTER, CLUSTER),
        ("write", 8 * BLOCK, BLOCK),
        ("flush", 0, 0),
    ]


def test_the_whole_log_makes_the_disk_that_qemu_left(
    logged: Path, requests: tuple[Request, ...], tmp_path: Path
) -> None:
    replay = Replay(open_disk(logged / "base"), logged / "log", requests)
    disk = replay.disk(CrashState(kind="flush", durable=len(requests)))
    left = make_raw(logged / "disk.qcow2", "qcow2", tmp_path / "left")
    assert disk.read(0, SIZE) == left.read_bytes()
    disk.save(logged / "base", tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == left.read_bytes()


def test_what_was_not_flushed_may_be_missing_in_any_combination(logged: Path, requests: tuple[Request, ...]) -> None:
    replay = Replay(open_disk(logged / "base"), logged / "log", requests)
    lost = replay.disk(CrashState(kind="flush", durable=3))
    assert lost.read(0, 4 * BLOCK) == block(1, 2, 2, 9)
    late = replay.disk(CrashState(kind="subset", durable=3, kept=(6,)))
    assert late.read(0, BLOCK) + late.read(8 * BLOCK, BLOCK) == block(1, 4)
    torn = replay.disk(CrashState(kind="torn", durable=3, kept=(6,), torn=(3, ((512, 1024),))))
    assert torn.read(0, 1536) == b"\1" * 512 + b"\3" * 512 + b"\1" * 512
    assert replay.disk(CrashState(kind="flush", durable=0)).read(0, SIZE) == block(9) * (SIZE // BLOCK)


def test_every_flush_is_a_state_and_a_seed_decides_the_rest(requests: tuple[Request, ...]) -> None:
    states = crash_states(requests, 40, seed=1, focus=[(8 * BLOCK, 9 * BLOCK)])
    assert states == crash_states(requests, 40, seed=1, focus=[(8 * BLOCK, 9 * BLOCK)])
    assert states != crash_states(requests, 40, seed=2, focus=[(8 * BLOCK, 9 * BLOCK)])
    assert len(set(states)) == len(states)
    assert {state.durable for state in states if state.kind == "flush"} >= {0, 3, 8, len(requests)}
    assert {"prefix", "drop", "subset", "torn"} <= {state.kind for state in states}
    flushes = [index for index, request in enumerate(requests) if request.flush]
    for state in states:
        end = next((index for index in flushes if index >= state.durable), len(requests))
        torn = (state.torn[0],) if state.torn else ()
        assert all(state.durable <= index < end for index in (*state.kept, *torn)), state


def test_epochs_that_touch_a_range_are_told_apart(requests: tuple[Request, ...]) -> None:
    found = epochs(requests, [(0, BLOCK)])
    assert [(epoch.start, epoch.focus) for epoch in found] == [(0, True), (3, True), (8, False)]


def test_a_growing_log_is_read_up_to_the_last_whole_request(
    logged: Path, requests: tuple[Request, ...], tmp_path: Path
) -> None:
    data, part = (logged / "log").read_bytes(), tmp_path / "part"
    for size in (512, requests[1].end - 1, requests[1].end, requests[4].end + 512):
        part.write_bytes(data[:size])
        assert len(list(read_log(part))) == requests_before(requests, size)
    part.write_bytes(data[: requests[4].end] + bytes(4096))
    assert len(list(read_log(part))) == 5
    with pytest.raises(BlockLogError, match="ends after 5"):
        list(read_log(part, strict=True))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"something else" * 100)
    with pytest.raises(BlockLogError):
        list(read_log(tmp_path / "log"))


def test_the_guest_uses_the_last_node() -> None:
    assert nodes(Path("/d"), Attachment(log=Path("/l")))[-1]["node-name"] == NODE
