"""Text that somebody else chose never reaches a terminal as anything but text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostctl.agent import bus
from hostctl.cli import main
from hostctl.errors import HostctlError

TITLE = "\x1b]0;mine\x07"  # sets a terminal's title
SHOWN = "�]0;mine�"


def test_an_error_shows_names_as_text_and_each_part_where_it_belongs() -> None:
    error = HostctlError(
        f"{TITLE} is no file\nhint: run this", details="one\ttwo\n\x9bthree\udc80", hint=f"see {TITLE}"
    )
    assert error.render().split("\n") == [
        f"error: {SHOWN} is no file",
        "  hint: run this",
        "  one\ttwo",
        "  �three�",
        f"hint: see {SHOWN}",
    ]
    assert HostctlError("").render() == "error: "


@pytest.mark.parametrize("words", [("cp", "web:/x", "-"), ("volume", "restore", "content", "--input")])
def test_names_that_were_left_out_are_shown_as_text(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "saved").touch()
    answer = json.dumps({"files": 0, "skipped": [f"a{TITLE}", "b\rc"]})
    monkeypatch.setattr(bus, "call", lambda *arguments, **more: answer)
    given = (*words, str(tmp_path / "saved")) if words[0] == "volume" else words
    arguments = main.parser_of(next(verb for verb in main.VERBS if verb.name == given[0])).parse_args(given[1:])
    assert arguments.run(arguments) == 0
    assert capsys.readouterr().err == f"left out: a{SHOWN}, b�c\n"
