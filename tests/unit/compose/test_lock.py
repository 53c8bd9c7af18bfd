"""The lock file: what is written is read back, and anything else is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hostctl.compose.lock import (
    Lock,
    LockError,
    check_lock,
    format_lock,
    load_lock,
    newest_date,
    parse_lock,
    requested_packages,
)
from hostctl.compose.packages import Package
from hostctl.config.load import parse_release

RELEASE = parse_release('version: 1\nname: edge\nrelease: "1"\npackages: [htop]\n')
PACKAGE = Package(name="a", version="1", architecture="all", sha256="0" * 64, size=3, url="http://mirror.test/a.deb")
LOCK = Lock(
    suite="trixie",
    source_date_epoch=1700000000,
    requested=requested_packages(RELEASE),
    host=(PACKAGE,),
    kernel=(PACKAGE,),
    tools=(),
)


def test_round_trip() -> None:
    assert parse_lock(format_lock(LOCK)) == LOCK


@pytest.mark.parametrize("change", [{"format": 2}, {"extra": 1}, {"host": [{"name": "a"}]}, {"host": 3}])
def test_refuses_another_shape(change: dict[str, object]) -> None:
    tree = {**json.loads(format_lock(LOCK)), **change}
    with pytest.raises(LockError):
        parse_lock(json.dumps(tree))


@pytest.mark.parametrize("change", [{"sha256": "../../etc/passwd"}, {"url": "file:///etc/passwd"}, {"size": 1 << 40}])
def test_refuses_hostile_packages(change: dict[str, object]) -> None:
    tree = json.loads(format_lock(LOCK))
    tree["host"][0].update(change)
    with pytest.raises(LockError):
        parse_lock(json.dumps(tree))


def test_missing_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(LockError) as caught:
        load_lock(tmp_path / "release.lock")
    assert "hostctl lock" in caught.value.hint


def test_check_names_what_differs() -> None:
    check_lock(LOCK, RELEASE)
    with pytest.raises(LockError) as caught:
        check_lock(LOCK, replace(RELEASE, packages=()))
    assert caught.value.details == "htop"


def test_newest_date() -> None:
    texts = ["Suite: a\nDate: Thu, 01 Jan 1970 00:00:09 UTC\n", "Date: Thu, 01 Jan 1970 00:00:07 UTC\n"]
    assert newest_date(texts) == 9
