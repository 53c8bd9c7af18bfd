"""``hostctl cp``: what it makes of files here and of those in a folder that stands for the root of a workload."""

from __future__ import annotations

import argparse
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from hostctl.agent import bus, copying
from hostctl.agent.copying import CopyError
from hostctl.cli import cp
from hostctl.errors import UsageError


class Agent:
    """Stands for the agent on the bus; its one workload's root is a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(
        self, member: str, name: str, path: str, options: str, *, descriptors: Sequence[int], address: str | None
    ) -> str:
        assert (name, address) == ("web", None)
        mode: copying.Mode = "pack" if member == "CopyOut" else "unpack"
        return json.dumps(asdict(copying.copy(mode, 0, path, descriptors[0], options.split(), folder=self._root)))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the workload's root, which lies beside what is copied from and to."""
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/conf").write_text("conf")
    monkeypatch.setattr(bus, "call", Agent(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.fixture
def site(root: Path) -> Path:
    """Return a folder of two files, which is called site here."""
    Path("site").mkdir(mode=0o750)
    Path("site/index.html").write_text("index")
    Path("site/style.css").write_text("style")
    os.utime("site", (5, 5))
    return root


def copy(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cp.configure(parser)
    return cp.run(parser.parse_args(words))


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


BOTH = {"index.html": "index", "style.css": "style"}


@pytest.mark.parametrize("target", ["new", "new/", "new/.", "etc/new"])
def test_contents_go_into_a_folder_that_is_made_for_them(site: Path, target: str) -> None:
    before = (site / target).parent.stat().st_mode
    assert copy("site/.", f"web:/{target}") == 0
    assert files(site / target) == BOTH
    assert (site / target).parent.stat().st_mode == before
    assert copy(f"web:/{target}/.", "back/") == 0
    assert files(Path("back")) == BOTH
    for folder in (site / target, Path("back")):
        assert (folder.stat().st_mode & 0o777, folder.stat().st_mtime) == (0o750, 5)


def test_contents_go_beside_what_is_there_and_leave_the_folder_what_it_is(site: Path) -> None:
    Path("there").mkdir()
    for mode, words, folder in (
        (0o1777, ("site/.", "web:/etc"), site / "etc"),
        (0o700, ("web:/etc/.", "there"), Path("there")),
    ):
        folder.chmod(mode)
        if os.geteuid() == 0:
            os.chown(folder, 7, 8)
        before = folder.stat()
        copy(*words)
        assert files(folder) == {"conf": "conf", **BOTH}
        after = folder.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
        assert after.st_mtime >= before.st_mtime


@pytest.mark.parametrize("target", ["file", "link"])
def test_contents_never_replace_what_is_no_folder(site: Path, target: str) -> None:
    for folder in (site, Path()):
        (folder / "file").write_text("old")
        (folder / "link").symlink_to("nowhere")
    for words in (("site/.", f"web:/{target}"), ("web:/etc/.", target), ("web:/", target)):
        with pytest.raises(CopyError, match=f"{target}: is there and no folder"):
            copy(*words)
    for folder in (site, Path()):
        assert (folder / "file").read_text() == "old"
        assert (folder / "link").is_symlink()
        assert not (folder / "nowhere").exists()


def test_the_root_is_its_contents(site: Path) -> None:
    copy("web:", "whole")
    assert files(Path("whole")) == {"etc/conf": "conf"}


def test_a_folder_itself_goes_into_one_that_is_there_else_it_is_called_as_the_target(site: Path) -> None:
    copy("site", "web:/etc")
    copy("site", "web:/new")
    assert files(site / "etc/site") == files(site / "new") == BOTH
    for words in (("site", "web:/no/new"), ("site", "web:/etc/conf"), ("site/index.html", "web:/etc/conf/")):
        with pytest.raises(CopyError):
            copy(*words)
    assert (site / "etc/conf").read_text() == "conf"


@pytest.mark.parametrize("target", ["missing", "etc/conf"])
def test_an_archive_wants_a_folder_that_is_there(site: Path, target: str) -> None:
    with tarfile.open("tar", "w") as archive:
        archive.add("site/index.html", "index.html")
        archive.add("site/style.css", "style.css")
    given = os.dup(0)
    try:
        for words in (("-", f"web:/{target}"), ("-", "web:/etc")):
            with Path("tar").open("rb") as file:
                os.dup2(file.fileno(), 0)
            if words[1] == "web:/etc":
                copy(*words)
            else:
                with pytest.raises(CopyError, match="no such folder"):
                    copy(*words)
    finally:
        os.dup2(given, 0)
        os.close(given)
    assert files(site) == {"etc/conf": "conf", **{f"etc/{name}": text for name, text in BOTH.items()}}


def test_a_link_is_followed_where_a_folder_is_meant(site: Path) -> None:
    (site / "app/releases/2").mkdir(parents=True)
    (site / "app/releases/2/page").write_text("page")
    (site / "app/current").symlink_to("releases/2")
    (site / "app/absolute").symlink_to("/app/releases")
    for source, target in (("current/.", "new"), ("current/.", "new"), ("absolute/2/", "."), ("current/", "third")):
        copy(f"web:/app/{source}", target)
    assert files(Path("new")) == files(Path("2")) == files(Path("third")) == {"page": "page"}
    copy("web:/app/current", "link")
    assert str(Path("link").readlink()) == "releases/2"
    Path("now").symlink_to("site")
    copy("now/.", "web:/in")
    copy("now/", "web:/etc")
    copy("now", "web:/link")
    assert files(site / "in") == files(site / "etc/now") == BOTH
    assert str((site / "link").readlink()) == "site"


@pytest.mark.parametrize("end", ["/", "/."])
def test_what_is_no_folder_has_no_contents(site: Path, end: str) -> None:
    (site / "dangling").symlink_to("nothing")
    for source in ("etc/conf", "nothing", "dangling"):
        with pytest.raises(CopyError, match=f"/{source}{end}: N"):  # Not a directory, No such file
            copy(f"web:/{source}{end}", "new")
    for source in ("site/index.html", "nothing"):
        with pytest.raises(UsageError, match="no such folder"):
            copy(f"{source}{end}", "web:/new")
    assert not (site / "new").exists()
    assert files(Path()) == {f"site/{name}": text for name, text in BOTH.items()}
