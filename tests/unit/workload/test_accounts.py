"""Users by name, from a workload's own files, which may say anything and be anything."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hostctl.workload import accounts
from hostctl.workload.accounts import Account, UnknownUserError

USERS = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:\n7:x:70:71::/:\nbad:x:-5:0::/:\nbig:x:99999:0::/:\n"
GROUP = "root:x:0:\nadm:x:4:www-data,other\nvideo:x:44:other,www-data\nwww-data:x:33:\nodd:x:x:www-data\n"


@pytest.mark.parametrize(
    ("wanted", "account"),
    [
        ("root", Account(uid=0, gid=0)),
        ("www-data", Account(uid=33, gid=33, groups=(4, 44))),
        ("www-data:adm", Account(uid=33, gid=4)),
        ("33", Account(uid=33, gid=33, groups=(4, 44))),
        ("7", Account(uid=70, gid=71)),
        ("1234:5", Account(uid=1234, gid=5)),
        ("1234", Account(uid=1234, gid=0)),
    ],
)
def test_names_and_numbers(wanted: str, account: Account) -> None:
    assert accounts.resolve(wanted, USERS, GROUP) == account


@pytest.mark.parametrize(
    "wanted", ["", "nobody", "-1", "0x0", "65536", "bad", "big", "root:", "root:odd", "root:-1", "³"]
)
def test_what_is_nobody_is_never_taken_for_root(wanted: str) -> None:
    with pytest.raises(UnknownUserError):
        accounts.resolve(wanted, USERS, GROUP)


def test_files_are_read_below_the_root_alone(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("root:x:0:0::/:\n")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/absolute").symlink_to(tmp_path / "outside")
    (root / "etc/up").symlink_to("../../../../outside")
    (root / "etc/inside").symlink_to("/etc/passwd")
    (root / "etc/passwd").write_text("x" * (2 << 20))
    os.mkfifo(root / "etc/fifo")
    (root / "etc/magic").symlink_to(f"/proc/{os.getpid()}/root/etc/passwd")
    folder = os.open(root, os.O_PATH)
    assert [accounts.read(folder, f"etc/{name}") for name in ("absolute", "up", "fifo", "magic", "none")] == [""] * 5
    assert len(accounts.read(folder, "etc/inside")) == accounts.LIMIT
    os.close(folder)


def test_a_file_of_proc_that_says_nothing_for_now_is_not_waited_for() -> None:
    folder = os.open("/", os.O_PATH)
    said: list[str] = []
    reading = threading.Thread(target=lambda: said.append(accounts.read(folder, "proc/kmsg")), daemon=True)
    reading.start()
    reading.join(10)
    os.close(folder)
    assert len(said) == 1
