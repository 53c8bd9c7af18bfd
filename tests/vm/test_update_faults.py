"""More of updates through the firmware: refused, cut off, without room or memory."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hostctl_lab import releases
from hostctl_lab.host import UPDATE_SECONDS, Host
from hostctl_lab.releases import Lab, segments
from hostctl_lab.server import Hold, RepositoryServer

pytestmark = pytest.mark.usefixtures("serving_next")

HELD_AFTER = 32 << 20  # bytes of the payload: the download does not come to its end
CUT_AFTER = 48 << 20  # bytes of the root, of which all but the last 16 MiB are on the disk
KEPT = 8 << 20  # bytes of the payload that are not fetched again, at least
LAST_STAGES = ["verify", "label", "kernel", "commit", "clean"]
MEMORY = 64 << 10  # KiB
SAMPLED = """
hostctl update --json & pid=$!
peak=0
while said=$(grep VmHWM /proc/$pid/status); do set -- $said; peak=$2; sleep 0.2; done
wait $pid
echo "{\\"peak\\": $peak}"
"""
"""Updates, and prints the most memory that the process had: what it says grows only, so a late sample is enough."""


def test_a_repository_of_other_keys_is_refused(
    own_host: Host, lab: Lab, server: RepositoryServer, tmp_path: Path
) -> None:
    server.folder = lab.publish(tmp_path / "foreign", releases.NEXT, keys="foreign-keys")
    before = own_host.disk_state()
    said = own_host.fails("hostctl", "update", "--json", seconds=UPDATE_SECONDS)
    assert "repository-untrusted" in said
    assert own_host.disk_state() == before


def test_a_tampered_payload_is_refused(
    own_host: Host, next_repository: Path, server: RepositoryServer, tmp_path: Path
) -> None:
    server.folder = tmp_path / "tampered"
    shutil.copytree(next_repository, server.folder)
    payload = segments(server.folder)
    with payload.open("r+b") as file:
        file.seek(payload.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes((byte[0] ^ 1,)))
    before = own_host.disk_state()
    said = own_host.fails("hostctl", "update", "--json", seconds=UPDATE_SECONDS)
    assert "payload-stored" in said
    assert own_host.disk_state() == before
    assert own_host.entries() == ["vmtest_1.efi"]
    server.folder = next_repository
    assert own_host.update()["staged"] == "2"


def test_a_power_cut_in_an_update_leaves_the_old_release(own_host: Host, server: RepositoryServer) -> None:
    server.hold = Hold(suffix=segments(server.folder).name, after=HELD_AFTER)
    words = own_host.ssh.command(["hostctl", "update", "--json"])
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ssh:
        assert ssh.stdout is not None
        events = (json.loads(line) for line in ssh.stdout)
        assert any(event["event"] == "progress" and event["bytes"] >= CUT_AFTER for event in events)
        own_host.power_cycle()
        server.hold.release.set()
        ssh.kill()
    own_host.wait_booted()
    assert own_host.status()["release"] == "1"
    assert own_host.entries() == ["vmtest_1.efi"]
    own_host.text("hostctl", "health")
    server.hold = None
    outcome = own_host.update_events()[-1]
    assert (outcome["staged"], outcome["path"]) == ("2", "full")
    fetched = outcome["fetched"]
    assert isinstance(fetched, int)
    assert fetched < segments(server.folder).stat().st_size - KEPT, "what was there was fetched again"
    assert own_host.entries() == ["vmtest_1.efi", "vmtest_2+1.efi"]
    stages = json.loads(own_host.text("hostctl", "history", "--stages", "--json"))
    assert [row["stage"] for row in stages if row["event"] == "done"][-5:] == LAST_STAGES


def test_a_full_state_partition_and_little_memory(own_host: Host) -> None:
    own_host.shell(
        "fallocate -l $(df --output=avail -B1 /var | tail -n 1) /var/filler || :; dd if=/dev/zero of=/var/more || :"
    )
    before = own_host.shell("df --output=avail -B1 /var | tail -n 1").strip()
    assert before == "0"
    events = [json.loads(line) for line in own_host.shell(SAMPLED, seconds=UPDATE_SECONDS).splitlines()]
    outcome = next(event for event in events if event.get("event") == "outcome")
    assert outcome["staged"] == "2"
    assert any("cannot be" in event["text"] for event in events if event.get("event") == "warning")
    peak = events[-1]["peak"]
    print(f"VmHWM {peak} KiB")
    assert 10_000 < peak < MEMORY
    own_host.shell("rm /var/filler /var/more")
    assert own_host.entries() == ["vmtest_1.efi", "vmtest_2+1.efi"]
    own_host.reboot_into("2")
    own_host.wait_blessed()
