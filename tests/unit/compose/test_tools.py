"""The tools root: extraction follows the merged /usr, words stay words."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.compose.packages import Package
from hostctl.compose.tools import ToolsRoot, make_tools
from hostctl.run import CommandError, run

PACKAGE = Package(name="a", version="1", architecture="all", sha256="0" * 64, size=3, url="http://mirror.test/a.deb")


def make_deb(folder: Path) -> Path:
    (folder / "tree/DEBIAN").mkdir(parents=True)
    (folder / "tree/bin").mkdir()
    (folder / "tree/bin/a").write_text("x")
    control = "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a <a@mail.test>\nDescription: a\n"
    (folder / "tree/DEBIAN/control").write_text(control)
    run(("dpkg-deb", "--build", "--root-owner-group", folder / "tree", folder / "a.deb"))
    return folder / "a.deb"


def test_files_land_behind_the_links(tmp_path: Path) -> None:
    deb = make_deb(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    make_tools([(PACKAGE, deb)], root)
    assert (root / "bin").is_symlink()
    assert (root / "usr/bin/a").read_text() == "x"


def test_a_broken_package_is_an_error(tmp_path: Path) -> None:
    deb = tmp_path / "a.deb"
    deb.write_bytes(b"nothing")
    (tmp_path / "root").mkdir()
    with pytest.raises(CommandError):
        make_tools([(PACKAGE, deb)], tmp_path / "root")


def test_words_are_never_shell_text() -> None:
    words = ["echo", "$(id) ; x"]
    argv = ToolsRoot(Path("/tools")).argv(words, [Path("/b"), Path("/a"), Path("/b")], Path("/a"))
    assert list(argv[-len(words) :]) == words
    assert argv[-7:-2] == ("/tools", "/a", "2", "/a", "/b")
