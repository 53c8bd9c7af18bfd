"""What is mounted aside is seen all at once or not at all; by the real kernel, in mount namespaces of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hostctl

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

ASIDE = """
import os, sys
from contextlib import suppress
from pathlib import Path
from hostctl import mounting

def mount(where):
    with mounting.filesystem("tmpfs", [("source", where.name)], mounting.SAFE) as mounted:
        mounting.attach(mounted, where)
    (where / "file").touch()

base = Path(sys.argv[1])
shown = [base / f"shown-{number}" for number in range(mounting.CHUNK + 1)]
hidden, lost = base / "hidden", base / "lost"
for path in (*shown, hidden, lost):
    path.mkdir()
with mounting.aside() as points:
    for path in (*shown, hidden):
        mount(path)
    points += shown
    assert (hidden / "file").exists()
with suppress(KeyError), mounting.aside() as points:
    mount(lost)
    points.append(lost)
    raise KeyError
print(sum((path / "file").exists() for path in shown), (hidden / "file").exists(), (lost / "file").exists())
mounts = Path("/proc/self/mountinfo").read_text().splitlines()
print(sum(str(base) in line for line in mounts), len(os.listdir("/proc/self/fd")))
"""


def _run(code: str, *arguments: str) -> list[str]:
    where = os.pathsep.join([str(Path(hostctl.__file__).parent.parent), *filter(None, sys.path)])
    words = [
        "unshare",
        "--mount",
        sys.executable,
        "-I",
        "-c",
        "import sys; sys.path[:0] = sys.argv.pop(1).split(':')\n" + code,
    ]
    done = subprocess.run([*words, where, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_mounted_aside_is_shown_where_it_is_listed_and_only_if_all_went_well(tmp_path: Path) -> None:
    seen, mounts = _run(ASIDE, str(tmp_path))
    assert seen == "257 False False"
    assert mounts == "257 4"  # standard streams, and the folder that is being listed


def test_a_folder_that_is_covered_shows_another_and_cannot_be_written_until_it_is_uncovered(tmp_path: Path) -> None:
    code = """
import errno, os, shutil, sys
from pathlib import Path
from hostctl import mounting
base = Path(sys.argv[1])
own, other = base / "own/bundle", base / "other/bundle"
for folder in (own, other):
    folder.mkdir(parents=True)
    (folder / "file").write_text(folder.parent.name)
mounting.uncover(own)
mounting.uncover(base / "missing")
mounting.cover(other, own)
print((own / "file").read_text(), os.path.ismount(own))
try:
    (own / "file").unlink()
except OSError as error:
    print(errno.errorcode[error.errno])
mounting.cover(other, own)
mounting.uncover(own)
print((own / "file").read_text(), (other / "file").read_text(), str(own) in Path("/proc/self/mountinfo").read_text())
"""
    assert _run(code, str(tmp_path)) == ["other False", "EROFS", "own other False"]


def test_a_point_that_cannot_be_shown_is_an_error_and_the_process_is_back_where_it_was(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from hostctl import mounting
before = os.readlink("/proc/self/ns/mnt")
try:
    with mounting.aside() as points:
        inside = os.readlink("/proc/self/ns/mnt")
        points.append(Path(sys.argv[1]) / "missing")
except FileNotFoundError as error:
    print(error.strerror)
print(inside != before == os.readlink("/proc/self/ns/mnt"))
"""
    assert _run(code, str(tmp_path)) == ["No such file or directory", "True"]
