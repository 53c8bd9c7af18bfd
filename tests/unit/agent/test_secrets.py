"""Values of secrets: encrypted, replaced as a whole, removed; names are no paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostctl.agent import secrets
from hostctl.layout import HostLayout

FAKE = """#!/bin/sh
[ "$1 $2" = "encrypt --quiet" ] || exit 9
printf '%s:' "$3"; tr a-z A-Z
"""


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostLayout:
    """Return a machine where systemd-creds only says what it was told, as builders have no host key."""
    program = tmp_path / "bin/systemd-creds"
    program.parent.mkdir()
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setattr("hostctl.run.ENVIRONMENT", {"PATH": f"{program.parent}:{os.environ['PATH']}"})
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return HostLayout(root=tmp_path)


def test_a_value_is_stored_encrypted_by_its_name_for_root_alone(layout: HostLayout) -> None:
    secrets.put(layout, "db", b"hush")
    secrets.put(layout, "db", b"other")
    (file,) = layout.secrets.iterdir()
    assert (file.name, file.read_bytes(), file.stat().st_mode & 0o777) == ("db", b"--name=db:OTHER", 0o600)
    assert layout.secrets.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in secrets.stored(layout)] == ["db"]
    secrets.remove(layout, "db")
    assert secrets.stored(layout) == ()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "A", "a/b"])
def test_a_name_is_no_path(layout: HostLayout, name: str) -> None:
    with pytest.raises(secrets.SecretNameError):
        secrets.put(layout, name, b"x")
    with pytest.raises(secrets.SecretNameError):
        secrets.remove(layout, name)


@pytest.mark.parametrize("value", [b"", b"x" * (secrets.MAX_BYTES + 1)])
def test_nothing_and_too_much_are_refused(layout: HostLayout, value: bytes) -> None:
    with pytest.raises(secrets.SecretError, match="value"):
        secrets.put(layout, "db", value)
    assert secrets.stored(layout) == ()


def test_what_is_not_there_cannot_be_removed(layout: HostLayout) -> None:
    with pytest.raises(secrets.SecretNameError, match="no secret"):
        secrets.remove(layout, "db")
