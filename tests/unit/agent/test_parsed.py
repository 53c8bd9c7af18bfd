"""What generations declare, read from the disk and parsed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.agent import parsed
from hostctl.agent.generation import Record, Stored
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.errors import HostctlError

TEXT = "version: 1\nhostname: web-{number}\n"


def stored(folder: Path, number: int, text: str = TEXT) -> Stored:
    (folder / "host.yaml").write_text(text.format(number=number))
    record = Record(number=number, created="", release="1", declaration_sha256="")
    return Stored(record=record, path=folder)


def test_a_generation_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def parse(text: str, name: str) -> HostDeclaration:
        calls.append(name)
        return parse_host(text, name)

    monkeypatch.setattr(parsed, "parse_host", parse)
    one = stored(tmp_path, 7101)
    assert parsed.declaration(one) is parsed.declaration(stored(tmp_path, 7101))
    assert parsed.declaration(stored(tmp_path, 7102)).hostname == "web-7102"
    assert calls == ["generation 7101", "generation 7102"]


def test_one_that_cannot_be_read_any_more_says_which(tmp_path: Path) -> None:
    with pytest.raises(HostctlError, match="generation 7103: one problem"):
        parsed.declaration(stored(tmp_path, 7103, "[]"))
