from __future__ import annotations

from pathlib import Path

from hostctl.boot.entries import parse_entries
from hostctl.boot.last_words import Words
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
    old = b'{"event": "bad", "version": "2", "time": "", "cause": ""}\n'
    path.write_bytes(
        b'[]\n3\n{"event": 1, "version": "2"}\n{"event": "bad", "version": "2", "lines": "text"}\n'
        b'{"event": "bad", "version": "2", "lines": [1]}\n\xff\n' + b"[" * 100_000 + b"\n" + old
    )
    assert history.read(path) == (history.Event(time="", event=history.BAD, version="2"),)


def test_lines_are_kept_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    said = [f"{number} {'x' * 1000}\n\x1b" for number in range(100)]
    written = history.append(path, history.BAD, "2", lines=said)
    assert history.read(path) == (written,)
    assert len(written.lines) == history.MAX_LINES
    assert written.lines[-1].startswith("99 ")
    assert max(map(len, written.lines)) == history.MAX_LINE


def test_a_bad_release_is_refused_by_its_digest_and_by_its_version_only_when_that_is_all(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history.append(path, history.BAD, "2", root_hash="aa")
    history.append(path, history.ROLLED_BACK, "3", root_hash="bb")
    history.append(path, history.BAD, "4")
    history.append(path, history.FAILED, "5", root_hash="cc")
    events = history.read(path)
    assert history.bad_digests(events) == {"aa", "bb"}
    assert history.bad_versions(events) == {"2", "3", "4"}
    refused = history.refused(events)
    asked = [("9", "aa"), ("2", "dd"), ("4", "dd"), ("5", "cc")]
    assert [refused.holds(version, digest) for version, digest in asked] == [True, False, True, False]


def test_a_release_without_tries_is_noted_once_but_not_the_one_in_its_last_try(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    entries = parse_entries(("edge_1.efi", "edge_2+0-1.efi", "edge_3+0-3.efi", "edge_4+1-2.efi"), "edge")

    def explain(root_hash: str) -> Words:
        return Words(cause=root_hash, lines=("it died",))

    for digests in ({"3": "33"}, {"3": "33"}, {}):
        refused = history.note_given_up(path, entries, "2", digests, explain)
        assert refused == history.Refused(digests=frozenset({"33"}), versions=frozenset())
    (event,) = history.read(path)
    assert (event.event, event.version, event.root_hash) == (history.BAD, "3", "33")
    assert (event.cause, event.lines) == ("33", ("it died",))
    refused = history.note_given_up(path, entries, "1", {"3": "other"})
    assert refused == history.Refused(digests=frozenset({"33", "other"}), versions=frozenset({"2"}))
