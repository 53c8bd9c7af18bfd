"""QEMU itself takes what is made here: every filter is opened by qemu-io."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hostctl_qemu.attachment import NODE, PLAIN, Attachment, InjectedError, Throttle, disk_arguments, nodes
from hostctl_qemu.blocklog import read_log

from hostctl.run import Completed, run


def nested(chain: list[dict[str, object]]) -> Mapping[str, object]:
    """Return nodes that name each other as one that holds the others, as qemu-io takes it."""
    made: dict[str, Mapping[str, object]] = {}
    for node in chain:
        inner = {key: made[str(node[key])] for key in ("file", "image") if str(node.get(key)) in made}
        made[str(node["node-name"])] = {**node, **inner}
    return made[NODE]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk.qcow2", "1M"], timeout=60)
    return tmp_path / "disk.qcow2"


def on(disk: Path, attachment: Attachment, *commands: str) -> Completed:
    words = [word for command in commands for word in ("-c", command)]
    source = f"json:{json.dumps(nested(nodes(disk, attachment)))}"
    return run(["qemu-io", "-t", "writeback", *words, source], timeout=60, check=False)


def test_a_write_to_a_bad_sector_fails_once(disk: Path) -> None:
    attachment = Attachment(errors=(InjectedError(sector=16),))
    done = on(disk, attachment, "write 0 8k", "write 8k 8k", "write 8k 8k", "read 8k 8k")
    assert done.text.count("wrote 8192") == 2
    assert "Input/output error" in done.text + done.stderr.decode()
    assert "read 8192/8192" in done.text


def test_a_disk_can_stay_broken(disk: Path) -> None:
    attachment = Attachment(errors=(InjectedError(sector=None, once=False),))
    done = on(disk, attachment, "write 0 8k", "write 64k 8k", "read 0 8k")
    assert (done.text + done.stderr.decode()).count("Input/output error") == 2
    assert "read 8192" in done.text


def test_the_disk_is_under_all_filters(disk: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    every = Attachment(log=log, errors=(InjectedError(sector=1),), throttle=Throttle(iops=10))
    chain = nodes(disk, every)
    assert [node["driver"] for node in chain] == ["qcow2", "throttle", "blklogwrites", "blkdebug"]
    assert [node["node-name"] for node in chain] == ["disk0", "disk1", "disk2", "disk"]
    assert on(disk, Attachment(log=log, errors=every.errors), "write 0 4k", "write 4k 4k").text.count("wrote") == 1
    assert [request.start for request in read_log(log) if request.length] == [4096]


def test_the_guest_is_told_of_errors_instead_of_being_stopped(disk: Path) -> None:
    words = disk_arguments(disk, PLAIN)
    assert "werror=report,rerror=report" in words[-1]
    assert [node["driver"] for node in nodes(disk, PLAIN)] == ["qcow2"]
