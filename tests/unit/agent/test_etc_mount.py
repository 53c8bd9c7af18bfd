"""Laying generations over /etc, with the real kernel in a mount namespace of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, json, os, subprocess, sys
from pathlib import Path
from hostctl.agent import etc_mount
from hostctl.agent.etc_mount import lay_over, uncover
top = Path(sys.argv[1])
root = top / "root"
root.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root)], check=True)
subprocess.run(["mount", "--make-shared", str(root)], check=True)  # as systemd makes the root file system
etc = root / "etc"
etc.mkdir()
for name in ("hostname", "passwd"):
    (etc / name).write_text("image")
for number in "12":
    layer = top / number / "etc"
    layer.mkdir(parents=True)
    (layer / "hostname").write_text(number)
(top / "1/etc/extra").write_text("")
seen = []
def look():
    try:
        (etc / "drift").write_text("")
        writable = True
    except OSError:
        writable = False
    mounts = Path("/proc/self/mountinfo").read_text().count(f" {etc} ")
    seen.append([(etc / "hostname").read_text(), sorted(os.listdir(etc)), writable, mounts])
for number in "121":
    lay_over(top / number / "etc", etc, top / "image-root", root=root)
    look()
class Killed(BaseException):
    pass
def killed(function, *arguments):
    if function is etc_mount.library().umount2:
        raise Killed
    return made(function, *arguments)
made, etc_mount.call = etc_mount.call, killed
try:
    lay_over(top / "2/etc", etc, top / "image-root", root=root)
except Killed:
    look()
etc_mount.call = made
lay_over(top / "2/etc", etc, top / "image-root", root=root)
look()
over = top / "over"
over.mkdir()
(over / "passwd").write_text("over")
lay_over(top / "1/etc", etc, top / "image-root", root=root, over=over)
seen.append([(etc / name).read_text() for name in ("hostname", "passwd")])
uncover(etc)
seen.append((etc / "hostname").read_text())
uncover(etc)
print(json.dumps(seen))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_generations_replace_one_another_over_the_image(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no overlay file system")
    assert done.returncode == 0, done.stderr
    one = ["1", ["extra", "hostname", "passwd"], False, 1]
    two = ["2", ["hostname", "passwd"], False, 1]
    cut = [*one[:3], 2]
    assert json.loads(done.stdout) == [one, two, one, cut, two, ["1", "over"], "image"]
