"""Boot entries on a folder in place of the EFI system partition; the order of system calls is read from strace."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl.boot.entries import parse_entry
from hostctl.update import esp
from hostctl.update.host import UpdateHost

RENAMER = "import sys; from pathlib import Path; from hostctl.update import esp; esp.rename(*map(Path, sys.argv[1:]))"
REMOVER = (
    "import sys; from pathlib import Path; from hostctl.update import esp; esp.remove(tuple(map(Path, sys.argv[1:])))"
)


@pytest.fixture
def host(tmp_path: Path) -> UpdateHost:
    entries = tmp_path / "esp"
    entries.mkdir()
    for name in ("host_1.efi", "host_2+3.efi"):
        (entries / name).write_bytes(name.encode() * 100)
    return UpdateHost(
        name="host", version="1", root_hash="00" * 32, disk=tmp_path, entries=entries, state=tmp_path / "state"
    )


def names(host: UpdateHost) -> list[str]:
    return sorted(path.name for path in host.entries.iterdir())


def calls(folder: Path, code: str, *paths: Path) -> list[str]:
    """Return what a program does to files of a folder, in order, without paths' folders."""
    log = folder / "strace"
    words: list[str | Path] = [
        "strace",
        "-qq",
        "-y",
        "-o",
        log,
        "-e",
        "trace=openat,fsync,rename,unlink",
        sys.executable,
        "-c",
        code,
    ]
    subprocess.run([*words, *paths], check=True)
    found = []
    for line in log.read_text().splitlines():
        if str(paths[0].parent) not in line or "O_DIRECTORY" in line or " = -1" in line:
            continue
        call = line.partition("(")[0]
        files = [Path(name).name for name in re.findall(rf"{re.escape(str(paths[0].parent))}[^\">]*", line)]
        how = "+".join(word for word in ("O_CREAT", "O_TRUNC") if word in line)
        if call != "openat" or how:
            found.append(" ".join(filter(None, (call, how, *dict.fromkeys(files)))))
    return found


def test_rename_goes_over_a_flushed_empty_file_and_flushes_file_and_folder(host: UpdateHost, tmp_path: Path) -> None:
    source = esp.temporary(host, "host_3")
    source.write_bytes(b"kernel")
    assert calls(tmp_path, RENAMER, source, host.entries / "host_3+3.efi") == [
        "openat O_CREAT host_3+3.efi",
        "fsync host_3+3.efi",
        "fsync esp",
        "rename .host_3.tmp host_3+3.efi",
        "fsync host_3+3.efi",
        "fsync esp",
    ]
    assert (host.entries / "host_3+3.efi").read_bytes() == b"kernel"


def test_removal_takes_the_tries_then_the_content_then_the_name(host: UpdateHost, tmp_path: Path) -> None:
    done = calls(tmp_path, REMOVER, host.entries / "host_2+3.efi")
    assert [line for line in done if not line.startswith("fsync")] == [
        "openat O_CREAT host_2+0.efi",
        "rename host_2+3.efi host_2+0.efi",
        "openat O_TRUNC host_2+0.efi",
        "unlink host_2+0.efi",
    ]
    assert done[-2:] == ["unlink host_2+0.efi", "fsync esp"]
    assert done[-3] == "fsync host_2+0.efi"
    assert names(host) == ["host_1.efi"]


def test_superfluous_is_what_no_release_needs(host: UpdateHost) -> None:
    mine = ["host_1+0-3.efi", ".host_1.tmp"]
    foreign = ["other_1.efi", "vendor.efi", ".keep", "notes~1.txt"]
    gone = ["host_3+2-1.efi", ".host_3.tmp", "HOST_2~1.EFI", "host_1+3.efi"]
    for name in (*mine, *foreign, *gone):
        (host.entries / name).write_bytes(b"" if name == "host_1+3.efi" else b"x")
    found = {path.name for path in esp.superfluous(host, frozenset({"host_1"}))}
    assert found == {*gone, "host_2+3.efi"}
    esp.remove(esp.superfluous(host, frozenset({"host_1"})))
    assert set(names(host)) == {"host_1.efi", *mine, *foreign}


def test_empty_files_are_no_entries(host: UpdateHost) -> None:
    (host.entries / "host_3+3.efi").touch()
    assert {entry.version for entry in esp.read_entries(host)} == {"1", "2"}


def test_room_is_what_is_free_and_what_will_be(host: UpdateHost) -> None:
    going = (host.entries / "host_2+3.efi",)
    esp.require_room(host, "host_3", 1000, going)
    assert names(host) == [".host_3.tmp", "host_1.efi", "host_2+3.efi"]
    esp.tidy(host, "host_3", keep=True)
    before = names(host)
    with pytest.raises(esp.EspFullError, match="to spare"):
        esp.require_room(host, "host_3", 1 << 60, going)
    assert names(host) == before == ["host_1.efi", "host_2+3.efi"]


def test_a_partition_that_cannot_be_written_is_found_before_anything_is_removed(host: UpdateHost) -> None:
    esp.temporary(host, "host_3").symlink_to(host.entries / "none/there")  # opening it fails as on a broken disk
    with pytest.raises(esp.StateError, match="cannot be written"):
        esp.require_room(host, "host_3", 1000, ())


def test_content_is_kept_to_go_on_from(host: UpdateHost) -> None:
    path = esp.temporary(host, "host_3")
    path.write_bytes(b"half")
    esp.tidy(host, "host_3", keep=True)
    assert path.exists()
    esp.tidy(host, "host_3", keep=False)
    assert not path.exists()
    esp.tidy(host, "host_3", keep=False)


def test_given_up_entry_keeps_its_content(host: UpdateHost) -> None:
    entry = parse_entry("host_2+3.efi")
    assert entry is not None
    esp.give_up(host, entry)
    assert names(host) == ["host_1.efi", "host_2+0.efi"]
    assert (host.entries / "host_2+0.efi").read_bytes().startswith(b"host_2+3")
    with pytest.raises(esp.StateError, match="cannot be renamed"):
        esp.give_up(host, entry)
    assert names(host) == ["host_1.efi", "host_2+0.efi"]


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("what", ["error=EIO", "error=ENOSPC"])
def test_every_flush_that_fails_leaves_the_old_entry_or_the_new(host: UpdateHost, number: int, what: str) -> None:
    source = esp.temporary(host, "host_3")
    source.write_bytes(b"kernel")
    words = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", f"inject=fsync:{what}:when={number}"]
    target = host.entries / "host_3+3.efi"
    done = subprocess.run([*words, sys.executable, "-c", RENAMER, source, target], check=False, capture_output=True)
    assert done.returncode == 1
    whole = [path for path in (source, target) if path.exists()]
    assert len(whole) == 1
    assert whole[0].read_bytes() == b"kernel"
    assert (host.entries / "host_1.efi").stat().st_size > 0
