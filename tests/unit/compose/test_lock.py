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
from hostctl.compose.packages import DEFAULT_MIRROR, TOOLS_PACKAGES, Package
from hostctl.config.load import parse_release

RELEASE = parse_release('version: 1\nname: edge\nrelease: "1"\npackages: [htop]\n')
PACKAGE = Package(name="a", version="1", architecture="all", sha256="0" * 64, size=3, url="http://mirror.test/a.deb")
LOCK = Lock(
    suite="trixie",
    mirror=DEFAULT_MIRROR,
    flavour="cloud",
    source_date_epoch=1700000000,
    requested=requested_packages(RELEASE),
    host=(PACKAGE,),
    kernel=(PACKAGE,),
    tools=tuple(replace(PACKAGE, name=name) for name in TOOLS_PACKAGES),
)


def test_round_trip() -> None:
    assert parse_lock(format_lock(LOCK)) == LOCK
    assert not parse_lock(format_lock(replace(LOCK, security=False))).security


def test_a_lock_that_does_not_say_was_made_with_security_updates() -> None:
    tree = json.loads(format_lock(LOCK))
    del tree["security"]
    assert parse_lock(json.dumps(tree)) == LOCK


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"extra": 1}, {"security": "no"}, {"host": [{"name": "a"}]}, {"host": 3}]
)
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


@pytest.mark.parametrize(
    ("lock", "text", "named"),
    [
        (LOCK, "", "package locked but not declared: htop"),
        (LOCK, "packages: [htop, jq]", "package not locked: jq"),
        (LOCK, "packages: [htop]\nkernel: generic", "kernel: locked cloud, declared generic"),
        (LOCK, "packages: [htop]\nbase: {mirror: http://mirror.test/debian}", "declared http://mirror.test/debian"),
        (replace(LOCK, tools=LOCK.tools[1:]), "packages: [htop]", f"tool not locked: {TOOLS_PACKAGES[0]}"),
        (replace(LOCK, kernel=()), "packages: [htop]", "kernel: 0 packages"),
    ],
)
def test_check_names_what_differs(lock: Lock, text: str, named: str) -> None:
    release = parse_release(f'version: 1\nname: edge\nrelease: "1"\n{text}\n')
    with pytest.raises(LockError) as caught:
        check_lock(lock, release)
    assert named in caught.value.details
    assert "hostctl lock" in caught.value.hint


def test_a_lock_of_the_same_declaration_passes() -> None:
    check_lock(LOCK, RELEASE)


def test_newest_date() -> None:
    texts = ["Suite: a\nDate: Thu, 01 Jan 1970 00:00:09 UTC\n", "Date: Thu, 01 Jan 1970 00:00:07 UTC\n"]
    assert newest_date(texts) == 9
