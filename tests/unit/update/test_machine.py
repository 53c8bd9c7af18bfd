from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.boot.slots import SlotError, find_disk, halves
from hostctl.layout import HostLayout
from hostctl.os_release import NotAHostError
from hostctl.update.machine import NoRepositoryError, this_host, this_source

ROOT_HASH = "12" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the parts of a host's file system that are looked at."""
    for folder in ("usr/lib", "proc", "dev/disk/by-partuuid", "sys/class/block", "sys/devices/pci0/vda/vda2"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text('ID=debian\n# x\nIMAGE_ID="host"\nIMAGE_VERSION=1.2\n')
    (tmp_path / "proc/cmdline").write_text(f"quiet roothash={ROOT_HASH}\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123\n")
    (tmp_path / "dev/vda2").touch()
    (tmp_path / "dev/disk/by-partuuid" / halves(ROOT_HASH)[0]).symlink_to("../../vda2")
    (tmp_path / "sys/class/block/vda2").symlink_to("../../devices/pci0/vda/vda2")
    (tmp_path / "sys/devices/pci0/vda/vda2/partition").write_text("2\n")
    return tmp_path


def test_host_is_found(root: Path) -> None:
    host = this_host(HostLayout(root))
    assert (host.name, host.version, host.root_hash) == ("host", "1.2", ROOT_HASH)
    assert host.disk == root / "dev/vda"
    assert (host.machine_id, host.runtime) == ("0123", root / "run/hostctl")


def test_other_machines_are_told_apart(root: Path) -> None:
    with pytest.raises(SlotError, match="not there"):
        find_disk("34" * 32, root)
    (root / "usr/lib/os-release").write_text("ID=debian\n")
    with pytest.raises(NotAHostError):
        this_host(HostLayout(root))


def test_source_comes_from_the_declaration_in_force(root: Path) -> None:
    layout = HostLayout(root)
    host = this_host(layout)
    with pytest.raises(NoRepositoryError):
        this_source(layout, host)
    layout.current.mkdir(parents=True)
    update = "update: {repository: https://updates.example/a, channel: edge}"
    (layout.current / "host.yaml").write_text(f"version: 1\nhostname: web\n{update}\n")
    (root / "usr/share/hostctl/tuf").mkdir(parents=True)
    (root / "usr/share/hostctl/tuf/root.json").write_bytes(b"{}")
    source = this_source(layout, host)
    assert (source.url, source.name, source.channel) == ("https://updates.example/a", "host", "edge")
