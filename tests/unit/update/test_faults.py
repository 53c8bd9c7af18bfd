"""Disks that are full, break or lie, for real: a small tmpfs in a namespace, system calls that strace lets fail."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hostctl.run import run
from hostctl.update import history
from hostctl.update.slot import RootMismatchError
from hostctl.update.stages import AFTER, Stage
from hostctl.update.steps import Event, Reached

if TYPE_CHECKING:
    from tests.unit.update.conftest import World

MIB = 1 << 20
PROCESSES = 10
MEMORY = 64 << 10  # KiB, of the whole process
UPDATER = """
import json, pickle, re, subprocess, sys
from pathlib import Path
from hostctl.errors import HostctlError
from hostctl.update.steps import Warned
from hostctl.update.updater import update
host, source, prepare = pickle.load(sys.stdin.buffer)
exec(prepare)
said = []
def report(event):
    if isinstance(event, Warned):
        said.append(event.text)
try:
    outcome = update(host, source, "stage", report)
    told = {"staged": outcome.staged, "written": outcome.written}
except HostctlError as error:
    told = {"error": error.id, "brief": error.brief, "code": error.exit_code}
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({**told, "warnings": said, "peak": peak}))
"""
FULL = """
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=NUMBER", "tmpfs", host.state], check=True)
try:
    for number in range(1000):
        (host.state / f"filler-{number}").write_bytes(CONTENT)
except OSError:
    pass
"""


def update_elsewhere(world: World, prepare: str = "", *, wrapper: tuple[str, ...] = ()) -> dict[str, object]:
    """Update in a process of its own and return what it printed; a traceback is a failure."""
    data = pickle.dumps((world.host, world.source, prepare))
    done = subprocess.run([*wrapper, sys.executable, "-c", UPDATER], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(("number", "content"), [(1000, "b'x' * 4096"), (40, "b''")], ids=["no space", "no inodes"])
def test_a_full_state_partition_stops_no_update(world: World, number: int, content: str) -> None:
    world.publish("2")
    world.host.state.mkdir()
    prepare = FULL.replace("NUMBER", str(number)).replace("CONTENT", content)
    told = update_elsewhere(world, prepare, wrapper=("unshare", "--user", "--map-root-user", "--mount"))
    assert told.get("staged") == "2", told
    assert told["warnings"]
    assert world.boots() == "2"
    assert not list(world.host.state.iterdir()), "nothing was written beside the full file system"


def test_of_many_at_once_exactly_one_updates(world: World) -> None:
    """The others are told so, or find it done when they come late."""
    world.publish("2")
    data = pickle.dumps((world.host, world.source, ""))
    words = [sys.executable, "-c", UPDATER]
    crowd = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.close()
    told = []
    for process in crowd:
        assert process.stdout is not None
        told.append(json.loads(process.stdout.read()))
        assert process.wait() == 0
    assert sum(bool(one.get("written")) for one in told) == 1
    for one in told:
        assert one.get("staged") == "2" or (one["error"], one["code"]) == ("update-busy", 75)
    assert world.boots() == "2"


def test_an_esp_without_room_is_refused_before_anything_is_given_up(world: World) -> None:
    world.publish("2")
    before = world.host.disk.read_bytes()
    esp, kept = world.host.entries, world.folder / "kept-esp"
    prepare = f"""
esp = host.entries
content = (esp / "host_1.efi").read_bytes()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", esp], check=True)
(esp / "host_1.efi").write_bytes(content)
(esp / "host_0.efi").write_bytes(b"older")
import atexit
atexit.register(lambda: Path({str(kept)!r}).write_text(" ".join(sorted(path.name for path in esp.iterdir()))))
"""
    told = update_elsewhere(world, prepare, wrapper=("unshare", "--user", "--map-root-user", "--mount"))
    assert told["error"] == "esp-full"
    assert kept.read_text() == "host_0.efi host_1.efi"
    assert world.host.disk.read_bytes() == before
    assert esp.exists()


def test_memory_stays_small_over_many_segments(large_world: World) -> None:
    world = large_world
    world.publish("2", content=random.Random(1).randbytes(24 * MIB))  # noqa: S311 - data
    told = update_elsewhere(world)
    assert told["staged"] == "2"
    peak = told["peak"]
    assert isinstance(peak, int)
    print(f"VmHWM {peak} KiB")
    assert peak < MEMORY


@pytest.mark.parametrize(("name", "stride"), [("fsync", 9), ("pwrite64", 6), ("rename", 4), ("ftruncate", 1)])
def test_a_call_that_fails_leaves_something_that_boots(world: World, name: str, stride: int) -> None:
    """Let the Nth call fail, up to the last one, in turns with another error; then the same update succeeds."""
    world.publish("2")
    again, log = world.keep(), world.folder / "strace"
    for number in range(1, 200, stride):
        again()
        error = ("EIO", "ENOSPC")[number // stride % 2]
        inject = f"inject={name}:error={error}:when={number}"
        told = update_elsewhere(world, wrapper=("strace", "-qq", "-o", str(log), "-e", f"trace={name}", "-e", inject))
        assert world.boots() in ("1", "2"), told
        if "error" in told:
            assert told["brief"]
            assert world.update().staged == "2"
        assert world.boots() == "2", told
        if "INJECTED" not in log.read_text():
            break
    else:
        pytest.fail("it never ends")


def test_a_root_that_the_disk_lost_is_found_by_reading_it_back(world: World) -> None:
    """The tree is made of what was written; the disk then holds something else."""
    world.publish("2")
    node = world.slot.root.node

    def damage(event: Event) -> None:
        if isinstance(event, Reached) and (event.stage, event.edge) == (Stage.TREE, AFTER):
            with node.open("r+b") as file:
                file.seek(4096)
                file.write(b"lost")

    with pytest.raises(RootMismatchError, match="reads back wrong"):
        world.update(report=damage)
    assert world.boots() == "1"
    assert world.other is None
    assert history.read(world.host.history)[-1].event == history.FAILED
    assert world.update().staged == "2"
    run(["veritysetup", "verify", node, world.slot.verity.node, world.slot.root_hash])
