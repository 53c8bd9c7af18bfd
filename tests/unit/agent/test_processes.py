"""The processes of a workload, as ``top`` shows them."""

from __future__ import annotations

import os
from pathlib import Path

from hostctl.agent import processes

FIRST = 0x10000000
STATUS = f"Name:\tnginx\nUid:\t{FIRST}\t{FIRST + 33}\t0\t0\nNSpid:\t4711\t7\n"
# a name may hold anything, also what looks like the end of it
STAT = "4711 (ng) x (inx) S 4700 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 1000 9999 256 0"


def test_a_process_as_the_workload_sees_it() -> None:
    found = processes.parse(status=STATUS, stat=STAT, command=b"nginx: worker\0-g\0x\n\0", uptime=25.0, first_id=FIRST)
    assert (found.pid, found.inside, found.parent, found.user, found.state) == (4711, 7, 4700, 33, "S")
    assert (found.cpu_seconds, found.resident, found.age) == (2.0, 1 << 20, 15.0)
    assert found.command == "nginx: worker -g x"


def test_one_without_a_command_line_has_its_name_and_a_stranger_no_user() -> None:
    found = processes.parse(status=STATUS, stat=STAT, command=b"", uptime=1.0, first_id=FIRST + 65536)
    assert (found.command, found.user, found.age) == ("[nginx]", -1, 0.0)


def test_this_very_process_is_found_and_one_that_ended_is_not() -> None:
    found = processes.read([os.getpid(), 2**22 + 1], first_id=0)
    assert [one.pid for one in found] == [os.getpid()]
    assert found[0].user == (os.geteuid() if os.geteuid() < 65536 else -1)
    assert found[0].resident > 1 << 20
    assert processes.read([], 0, Path("/proc")) == ()
