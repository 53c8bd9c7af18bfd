"""Signing keys: complete, private, never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.compose.keys import KeysError, KeySet, init_keys
from hostctl.repository.metadata import load_keys


def test_init(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys = init_keys(folder)
    assert KeySet.load(folder) == keys
    load_keys(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    secrets = [*folder.glob("*.key"), *folder.glob("tuf/*.pem")]
    assert len(secrets) == 8
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    with pytest.raises(KeysError, match="not empty"):
        init_keys(folder)


def test_missing_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(KeysError) as caught:
        KeySet.load(tmp_path)
    assert "hostctl keys init" in caught.value.hint
