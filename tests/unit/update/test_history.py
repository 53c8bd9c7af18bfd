from __future__ import annotations

from pathlib import Path

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
