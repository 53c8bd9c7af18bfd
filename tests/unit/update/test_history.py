from __future__ import annotations

from pathlib import Path

from hostctl.boot.entries import parse_entries
from hostctl.update import history


def test_torn_line_is_passed_over_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state/history.jsonl"
    assert history.read(path) == ()
    first = history.append(path, history.STAGED, "2")
    with path.open("ab") as file:
        file.write(b'{"event": "bad", "vers')
    assert history.read(path) == (first,)
    second = history.append(path, history.BAD, "2", "unhealthy: web\nport 80")
    assert history.read(path) == (first, second)
    assert history.bad_versions(history.read(path)) == {"2"}


def test_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'[]\n3\n{"event": 1, "version": "2"}\n\xff\n' + b"[" * 100_000 + b"\n")
    assert history.read(path) == ()


def test_a_release_without_tries_is_noted_once_but_not_the_one_in_its_last_try(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    entries = parse_entries(("edge_1.efi", "edge_2+0-1.efi", "edge_3+0-3.efi", "edge_4+1-2.efi"), "edge")
    for _ in range(2):
        assert history.note_given_up(path, entries, "2") == {"3"}
    assert [(event.event, event.version) for event in history.read(path)] == [(history.BAD, "3")]
    assert history.note_given_up(path, entries, "1") == {"2", "3"}
