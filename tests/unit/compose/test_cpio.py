"""The initrd's container format, read back by GNU cpio."""

import subprocess
from pathlib import Path

from hostctl.compose.cpio import archive, folder, link, regular


def test_cpio_reads_back_what_was_written(tmp_path: Path) -> None:
    data = archive([regular("bin/tool", b"\x7fELF-ish", executable=True), folder("bin"), link("bin/sh", "tool")])
    subprocess.run(["cpio", "--extract", "--quiet", "--make-directories"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"\x7fELF-ish"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bin/sh").readlink() == Path("tool")


def test_the_order_of_entries_does_not_matter() -> None:
    one, two = regular("a", b"1"), regular("b", b"2")
    assert archive([one, two]) == archive([two, one])


def test_every_record_starts_at_a_multiple_of_four() -> None:
    data = archive([regular("odd", b"12345"), regular("even", b"")])
    position = 0
    while (position := data.find(b"070701", position)) >= 0:
        assert position % 4 == 0
        position += 6
    assert len(data) % 4 == 0
