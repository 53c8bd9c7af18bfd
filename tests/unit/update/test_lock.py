from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl.update.host import UpdateHost
from hostctl.update.lock import LockError, UpdateBusyError, holder, locked

PROCESSES = 10
ROUNDS = 20
CONTENDER = """
import sys
from pathlib import Path
from hostctl.update.host import UpdateHost
from hostctl.update.lock import UpdateBusyError, locked
folder = Path(sys.argv[1])
places = {"disk": folder, "entries": folder, "state": folder, "runtime": folder / "run"}
host = UpdateHost(name="h", version="1", root_hash="0", **places)
for line in sys.stdin:
    try:
        with locked(host, f"update {line.strip()}"):
            print("won", flush=True)
            sys.stdin.readline()
    except UpdateBusyError as error:
        print(error.exit_code, error.brief, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def host(tmp_path: Path) -> UpdateHost:
    return UpdateHost(
        name="h", version="1", root_hash="0", disk=tmp_path, entries=tmp_path, state=tmp_path, runtime=tmp_path / "run"
    )


def test_exactly_one_of_many_processes_wins_and_the_others_are_told_who(host: UpdateHost) -> None:
    words = [sys.executable, "-c", CONTENDER, str(host.entries)]
    contenders = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    for number in range(ROUNDS):
        for process in contenders:
            assert process.stdin is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
        said = {process.pid: process.stdout.readline().strip() for process in contenders if process.stdout is not None}
        winners = [pid for pid, line in said.items() if line == "won"]
        assert len(winners) == 1
        for line in said.values():
            assert line == "won" or line.startswith("75 ")
            assert line == "won" or "is at work" in line
        with pytest.raises(UpdateBusyError, match=rf"update {number}` \(pid {winners[0]}\) since 20"), locked(host):
            pass
        for process in contenders:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in contenders:  # all have given up the lock when they answer again
            assert process.poll() is None
    for process in contenders:
        process.communicate()
        assert process.returncode == 0


def test_a_holder_that_was_killed_holds_nothing(host: UpdateHost) -> None:
    words = [sys.executable, "-c", CONTENDER, str(host.entries)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("x\n")
        process.stdin.flush()
        assert process.stdout.readline() == "won\n"
        process.kill()
        process.wait()
        with locked(host):
            found = holder(host.runtime)
    assert found is not None
    assert found.pid == os.getpid()


def test_nothing_has_to_be_written_for_the_lock(host: UpdateHost) -> None:
    host.runtime.write_bytes(b"not a folder")
    with locked(host), pytest.raises(UpdateBusyError, match="another update or rollback is at work"), locked(host):
        pass


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"pid": 1e99, "verb": 1, "since": ""}', b"[" * 5000])
def test_a_damaged_note_names_nobody(host: UpdateHost, content: bytes) -> None:
    host.runtime.mkdir()
    (host.runtime / "updater.json").write_bytes(content)
    assert holder(host.runtime) is None


def test_a_note_of_a_dead_process_names_nobody(host: UpdateHost) -> None:
    host.runtime.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (host.runtime / "updater.json").write_text(json.dumps({"pid": dead.pid, "verb": "update", "since": "x"}))
    assert holder(host.runtime) is None


def test_without_an_esp_there_is_no_lock(host: UpdateHost, tmp_path: Path) -> None:
    gone = UpdateHost(name="h", version="1", root_hash="0", disk=tmp_path, entries=tmp_path / "none", state=tmp_path)
    with pytest.raises(LockError), locked(gone):
        pass
