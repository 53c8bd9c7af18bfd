"""Volumes: what is removed and what never is, and backups that come back whole or not at all."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import tarfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from hostctl.agent import exclusive, pausing, pending, unit_control, volume_methods
from hostctl.agent.bus import Call
from hostctl.agent.copying import CopyError
from hostctl.agent.exclusive import BusyError
from hostctl.agent.machine import SystemdMachine, UnitState, Verb
from hostctl.agent.service import HostService
from hostctl.agent.volume_methods import VolumeService
from hostctl.agent.volumes import UnknownVolumeError, VolumeExistsError, VolumeInUseError, Volumes
from hostctl.cli import many
from hostctl.layout import HostLayout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files in volumes belong to many users")
DECLARATION = """\
version: 1
hostname: web-1
workloads: {web: {image: "r.example/web:1", volumes: ["content:/srv"]}}
volumes: {content: {}, spare: {}}
"""


class Units(SystemdMachine):
    """A machine that notes what is done to units. ``web`` runs if it is told so."""

    running = False
    paused = False
    active = "active"
    starters: tuple[str, ...] = ()

    def __init__(self, layout: HostLayout) -> None:
        super().__init__(layout)
        self.done: list[tuple[str, tuple[str, ...]]] = []

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """Note it."""
        del block
        self.done.append((verb, tuple(names)))

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Say whether it runs."""
        pid, paused = 42 if self.running else 0, self.paused
        more = {"sub": "", "result": "", "restarts": 0, "active_for": 0.0}
        return {
            name: UnitState(name=name, active=self.active, main_pid=pid, paused=paused, **more)  # type: ignore[arg-type]
            for name in names
            if name.endswith(".service") or name in self.starters
        }


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    layout = HostLayout(root=tmp_path)
    folder = layout.generations / "1"
    (folder / "bundles/web").mkdir(parents=True)
    record = {"number": 1, "created": "", "release": "1", "declaration_sha256": "", "uids": {}, "ranges": {"web": 0}}
    record["images"] = {"web": {"reference": "r.example/web:1", "digest": "sha256:0"}}
    (folder / "generation.json").write_text(json.dumps(record))
    (folder / "host.yaml").write_text(DECLARATION)
    mounts = [{"destination": "/srv", "type": "bind", "source": "/var/lib/hostctl/volumes/content"}]
    (folder / "bundles/web/config.json").write_text(json.dumps({"mounts": mounts}))
    layout.current.symlink_to("generations/1")
    for name in ("content", "old"):
        (layout.volumes / name).mkdir(parents=True)
        (layout.volumes / name / "file").write_text(name)
    os.chown(layout.volumes / "content/file", 33, 34)
    (layout.volumes / "content/link").symlink_to("/etc/shadow")
    (layout.volumes / "content/sub").mkdir(mode=0o700)
    return layout


@pytest.fixture
def machine(layout: HostLayout) -> Units:
    return Units(layout)


@pytest.fixture
def volumes(layout: HostLayout, machine: Units) -> Volumes:
    return Volumes(layout, machine)


def tree(folder: Path) -> list[tuple[str, int, int, int, str]]:
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found.append((str(path.relative_to(folder)), status.st_mode, status.st_uid, status.st_gid, content))
    return found


def test_volumes_are_listed_with_who_uses_them(volumes: Volumes, machine: Units) -> None:
    machine.running = True
    content, old = volumes.list(sizes=True)
    assert (content.name, content.declared, content.workloads, content.running) == ("content", True, ("web",), ("web",))
    assert (old.name, old.declared, old.workloads) == ("old", False, ())
    assert content.bytes > 0


def test_what_is_used_is_never_removed(volumes: Volumes, layout: HostLayout) -> None:
    for name in ("content", "spare"):
        if name == "spare":
            volumes.create(name)
        with pytest.raises(VolumeInUseError):
            volumes.remove(name)
    assert [volume.name for volume in volumes.prune()] == ["old"]
    assert sorted(path.name for path in layout.volumes.iterdir()) == ["content", "spare"]


def test_nothing_is_removed_while_the_declaration_may_be_taken_back(volumes: Volumes, layout: HostLayout) -> None:
    with exclusive.lock(layout):
        for deed in (lambda: volumes.remove("old"), volumes.prune):
            with pytest.raises(BusyError) as caught:
                deed()
            assert caught.value.exit_code == 75
    for booting in (False, True):
        pending.mark(layout, pending.Pending(former=1, wanted=2, booting=booting))
        for deed in (lambda: volumes.remove("old"), volumes.prune):
            with pytest.raises(VolumeInUseError, match="may still be taken back"):
                deed()
    assert (layout.volumes / "old/file").read_text() == "old"
    (layout.state / "pending").unlink()
    (removed,) = volumes.prune()
    assert (removed.name, removed.bytes > 0) == ("old", True)
    assert sorted(path.name for path in layout.volumes.iterdir()) == ["content"]


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "../content", ".hidden", "a\0b", "A", "x" * 32])
def test_names_stay_in_their_folder(volumes: Volumes, name: str) -> None:
    for deed in (volumes.get, volumes.remove, volumes.create):
        with pytest.raises(UnknownVolumeError):
            deed(name)


def test_one_is_made_once(volumes: Volumes) -> None:
    assert volumes.create("scratch", (5, 6)).owner == "5:6"
    with pytest.raises(VolumeExistsError):
        volumes.create("scratch")
    volumes.remove("scratch")
    with pytest.raises(UnknownVolumeError):
        volumes.get("scratch")


def backup(service: VolumeService, path: Path, name: str = "content", options: str = "") -> bytes:
    with path.open("wb") as file:
        service.backup(Call(uid=0, arguments=(name, options), descriptors=(file.fileno(),), notify=lambda text: None))
    return path.read_bytes()


def restore(service: VolumeService, path: Path, data: bytes, name: str = "content", options: str = "") -> None:
    path.write_bytes(data)
    with path.open("rb") as file:
        service.restore(Call(uid=0, arguments=(name, options), descriptors=(file.fileno(),), notify=lambda text: None))


def test_a_backup_comes_back(layout: HostLayout, machine: Units, tmp_path: Path) -> None:
    service = VolumeService(layout, machine)
    content = layout.volumes / "content"
    content.chmod(0o750)
    os.chown(content, 33, 34)
    before = tree(content)
    data = backup(service, tmp_path / "b")
    (content / "file").write_text("spoiled")
    (content / "new").write_text("new")
    restore(service, tmp_path / "b", data)
    assert tree(content) == before
    restore(service, tmp_path / "b", data, name="another")
    assert tree(layout.volumes / "another") == before
    for volume in (content, layout.volumes / "another"):
        found = volume.stat()
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o750, 33, 34)
    assert sorted(path.name for path in layout.volumes.iterdir()) == ["another", "content", "old"]
    assert machine.done == [("stop", ()), ("start", ())] * 2


def archive(uid: int = 0, name: str = "file", kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.uid, info.type, info.linkname = uid, kind, "x"
        tar.addfile(info)
    return out.getvalue()


def compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize("damage", ["cut", "early", "bit", "empty", "plain", "more", "owner", "outside", "no tar"])
def test_a_damaged_backup_changes_nothing(damage: str, layout: HostLayout, machine: Units, tmp_path: Path) -> None:
    service = VolumeService(layout, machine)
    good = backup(service, tmp_path / "b")
    bad = {
        "cut": good[:-1],
        "early": good[: len(good) // 2],
        "bit": good[:-1] + bytes([good[-1] ^ 1]),
        "empty": b"",
        "plain": archive(),
        "more": good + b"x",
        "owner": compressed(archive(uid=0x10000000)),
        "outside": compressed(archive(name="../../escape")),
        "no tar": compressed(b"x" * 5000),
    }[damage]
    before = tree(layout.volumes)
    with pytest.raises(CopyError):
        restore(service, tmp_path / "b", bad)
    assert tree(layout.volumes) == before
    assert machine.done == []


def test_neither_is_done_under_a_running_workload_unless_asked_for(
    layout: HostLayout, machine: Units, tmp_path: Path
) -> None:
    service = VolumeService(layout, machine)
    machine.running = True
    with pytest.raises(VolumeInUseError):
        backup(service, tmp_path / "b")
    data = backup(service, tmp_path / "b", options="live")
    with pytest.raises(VolumeInUseError):
        restore(service, tmp_path / "b", data)
    assert machine.done == []
    restore(service, tmp_path / "b", data, options="live")
    assert machine.done == [("stop", ("workload-web.service",)), ("start", ("workload-web.service",))]


@pytest.mark.parametrize("active", ["activating", "deactivating", "reloading"])
def test_one_without_a_first_process_yet_or_any_more_uses_its_volume(
    layout: HostLayout, machine: Units, tmp_path: Path, active: str
) -> None:
    service = VolumeService(layout, machine)
    assert Volumes(layout, machine).get("content").running == ()  # as of a job that was completed
    data = backup(service, tmp_path / "b")
    machine.active = active
    with pytest.raises(VolumeInUseError):
        backup(service, tmp_path / "b")
    with pytest.raises(VolumeInUseError):
        restore(service, tmp_path / "b", data)
    assert machine.done == []
    restore(service, tmp_path / "b", data, options="live")
    assert machine.done == [("stop", ("workload-web.service",)), ("start", ("workload-web.service",))]
    machine.active = "failed"
    assert Volumes(layout, machine).get("content").running == ()


def test_what_would_start_it_again_is_stopped_as_well(layout: HostLayout, machine: Units, tmp_path: Path) -> None:
    service = VolumeService(layout, machine)
    data = backup(service, tmp_path / "b")
    machine.starters = ("workload-web.socket",)
    restore(service, tmp_path / "b", data, options="live")
    assert machine.done == [("stop", machine.starters), ("start", machine.starters)]
    machine.running = True
    restore(service, tmp_path / "b", data, options="live")
    assert machine.done[2] == ("stop", ("workload-web.socket", "workload-web.service"))


def test_a_paused_workload_runs_on_before_it_is_stopped_for_a_restore(
    layout: HostLayout, machine: Units, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = VolumeService(layout, machine)
    data = backup(service, tmp_path / "b")
    machine.running = machine.paused = True
    thawed: list[tuple[str, int]] = []
    monkeypatch.setattr(unit_control, "thaw", lambda unit: thawed.append((unit, len(machine.done))))
    restore(service, tmp_path / "b", data, options="live")
    assert thawed == [("workload-web.service", 0)]
    assert [verb for verb, _ in machine.done] == ["stop", "start"]


@pytest.mark.parametrize("live", [False, True])
def test_what_began_to_run_while_it_was_unpacked_does_not_write_to_the_former_volume(
    volumes: Volumes, layout: HostLayout, machine: Units, tmp_path: Path, live: bool
) -> None:
    path = tmp_path / "tar"
    path.write_bytes(archive())

    def whole() -> None:
        machine.running = True

    with path.open("rb") as stream:
        if live:
            volumes.restore("content", stream.fileno(), whole, live=True)
        else:
            with pytest.raises(VolumeInUseError):
                volumes.restore("content", stream.fileno(), whole, live=False)
    assert [verb for verb, _ in machine.done] == (["stop", "start"] if live else [])
    assert (layout.volumes / "content/link").is_symlink() != live
    assert sorted(path.name for path in layout.volumes.iterdir()) == ["content", "old"]


def test_only_one_at_a_time_exchanges_or_removes(volumes: Volumes, layout: HostLayout) -> None:
    descriptor = os.open(layout.volumes, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    removing = threading.Thread(target=volumes.remove, args=("old",))
    removing.start()
    removing.join(0.5)
    assert removing.is_alive()
    assert (layout.volumes / "old").is_dir()
    os.close(descriptor)
    removing.join(10)
    assert not (layout.volumes / "old").exists()


def test_several_are_removed_at_once(volumes: Volumes, layout: HostLayout) -> None:
    names = [f"scratch-{number}" for number in range(20)]
    for name in names:
        volumes.create(name)
    assert [failed for _, failed in many.tried(names, volumes.remove) if failed] == []
    assert sorted(path.name for path in layout.volumes.iterdir()) == ["content", "old"]


class Widest(io.RawIOBase):
    """Takes everything, and remembers only the most that came at once."""

    most = 0

    def writable(self) -> bool:
        """Say so."""
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - as the base class
        """Forget it."""
        self.most = max(self.most, len(data))
        return len(data)


def test_a_backup_that_unpacks_to_very_much_takes_no_more_memory_for_that() -> None:
    sink = Widest()
    bomb = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(512 << 20))
    volume_methods.decompress(io.BytesIO(bomb), sink)  # type: ignore[arg-type]  # written to only
    assert 0 < sink.most <= 32 << 20


def test_reading_a_backup_takes_bounded_memory() -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=27, write_checksum=True)
    frame = zstandard.ZstdCompressor(compression_params=wide)
    with pytest.raises(zstandard.ZstdError):
        volume_methods.decompress(io.BytesIO(frame.compress(bytes(200 << 20))), io.BytesIO())


class Dying(Units):
    """A machine on which the agent is killed once it has stopped or is about to start something."""

    def __init__(self, layout: HostLayout, at: Verb) -> None:
        super().__init__(layout)
        self._at = at
        self.running = True

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """End at once, as by SIGKILL."""
        if verb == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("at", "content"), [("stop", "content"), ("start", "new")])
def test_what_a_dead_agent_stopped_for_a_restore_is_started(
    layout: HostLayout, machine: Units, tmp_path: Path, at: Verb, content: str
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/file").write_text("new")
    with tarfile.open(tmp_path / "tar", "w") as tar:
        tar.add(tmp_path / "new", ".")
    dying = os.fork()
    if dying == 0:
        with (tmp_path / "tar").open("rb") as stream:
            Volumes(layout, Dying(layout, at)).restore("content", stream.fileno(), lambda: None, live=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(dying, 0)[1]) == -signal.SIGKILL
    agent = HostService(layout, machine)
    agent.recover()
    assert machine.done == [("start", ("workload-web.service",))]
    assert sorted(path.name for path in layout.volumes.iterdir()) == ["content", "old"]
    assert (layout.volumes / "content/file").read_text() == content
    agent.recover()
    assert len(machine.done) == 1


def test_a_mark_that_was_being_written_stops_nobody(layout: HostLayout, machine: Units) -> None:
    (layout.runtime / "stopped").mkdir(parents=True)
    (layout.runtime / "stopped/.content.0.tmp").write_text("workload-w")
    assert pausing.recover(layout, machine) == ()
    assert machine.done == []
    assert list((layout.runtime / "stopped").iterdir()) == []


def test_what_is_at_work_is_left_to_who_is_at_it(volumes: Volumes, layout: HostLayout) -> None:
    staged = layout.volumes / ".content.01234567"
    staged.mkdir()
    volumes.remove("old")
    assert volumes.prune() == ()
    assert staged.is_dir()
    volumes.clean()
    assert not staged.exists()


def nest(folder: Path, count: int) -> None:
    """Put folders with long names into each other, as whoever may write to a volume can."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(count):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_a_tree_that_is_too_deep_for_a_path_is_looked_at_and_removed(volumes: Volumes) -> None:
    path = volumes._path("old")
    nest(path, 300)
    (path / "file").write_bytes(bytes(8192))
    (path / "again").hardlink_to(path / "file")
    assert volumes.get("old").bytes >= 8192
    assert {each.name for each in volumes.list(sizes=True)} == {"content", "old"}
    volumes.remove("old")
    assert [each.name for each in path.parent.iterdir()] == ["content"]
