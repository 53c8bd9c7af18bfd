"""The verbs for running workloads: what they ask for, and what they print."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl.agent.cgroups import Pressure, Usage
from hostctl.agent.event_log import Event
from hostctl.agent.generation import Pin, Record
from hostctl.agent.overview import WorkloadStatus
from hostctl.agent.processes import Process
from hostctl.agent.usage import Figures
from hostctl.cli import events, formats, logs, many, ps, stats, top, unit
from hostctl.errors import EXIT_BUSY, EXIT_FAILED, HostctlError, UsageError
from hostctl.run import CommandNotFoundError


def row(name: str = "web", state: str = "active", **changes: object) -> WorkloadStatus:
    values: dict[str, object] = {
        "image": f"r.example/{name}:1",
        "digest": "sha256:0",
        "sub": "",
        "health": "",
        "main_pid": 1,
        "restarts": 0,
        "up_for": 61.0,
    }
    return WorkloadStatus(name=name, state=state, **{**values, **changes})  # type: ignore[arg-type]


ROWS = (
    row("web", health="healthy", ports=("8080:80",)),
    row("app", paused=True),
    row("job", "inactive", up_for=0.0, exit_status=3),
    row("bad", "failed", up_for=0.0, exit_status=137),
    row("new", "activating", up_for=0.0),
)


def test_states_in_docker_words() -> None:
    assert [ps.status(one) for one in ROWS] == [
        "Up 1m 1s (healthy)", "Up 1m 1s (paused)", "Exited (3)", "Exited (137)", "Restarting (0)",
    ]  # fmt: skip
    assert ps.text(ROWS).splitlines()[1].split() == [
        "web",
        "r.example/web:1",
        "Up",
        "1m",
        "1s",
        "(healthy)",
        "8080:80",
        "0",
    ]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ((), ["web", "app", "job", "bad", "new"]),
        (("status=running",), ["web"]),
        (("status=exited", "status=paused"), ["app", "job", "bad"]),
        (("name=?e*", "status=restarting"), ["new"]),
        (("health=none", "image=*/app:1"), ["app"]),
        (("name=nothing",), []),
    ],
)
def test_filters(filters: tuple[str, ...], names: list[str]) -> None:
    assert [one.name for one in ps.chosen(ROWS, filters)] == names


@pytest.mark.parametrize("text", ["status", "colour=red", "=x", ""])
def test_unknown_filters_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        ps.chosen(ROWS, [text])
    with pytest.raises(UsageError):
        events.filters([text])


def test_templates() -> None:
    rows = [ps.fields(one) for one in ROWS[:2]]
    assert formats.render("{{.Names}}: {{ .Status }}", rows) == "web: Up 1m 1s (healthy)\napp: Up 1m 1s (paused)"
    assert formats.render("table {{.Name}}\\t{{.Ports}}", rows) == "NAME  PORTS\nweb   8080:80\napp"
    assert json.loads(formats.render("{{json .}}", rows[:1])) == rows[0]
    assert formats.render("{{json .Restarts}}{{.A.B}}", [{"Restarts": 2, "A": {"B": True}}]) == "2true"


@pytest.mark.parametrize("template", ["{{.Nope}}", "{{.Name.X}}", "{{range .}}", "{{if .Name}}x{{end}}", "{{.Name"])
def test_templates_that_are_not_understood_are_refused(template: str) -> None:
    with pytest.raises(UsageError):
        formats.render(template, [ps.fields(ROWS[0])])


PIN = Pin(reference="r.example/x:1", digest="sha256:0")
RECORD = Record(
    number=1,
    created="",
    release="1",
    declaration_sha256="",
    images={"site": PIN, "web": PIN},
    replicas={"web": 2},
)


def test_logs_of_replicas_are_those_of_all_or_of_one() -> None:
    assert logs.units(RECORD, "web") == [
        *("workload-web.service", "workload-web.a.service", "workload-web.b.service", "workload-web.2.service"),
    ]
    assert logs.units(RECORD, "web.1") == ["workload-web.service"]
    assert logs.units(RECORD, "web.2") == ["workload-web.2.service"]


def test_logs_ask_journalctl_for_what_the_workload_printed() -> None:
    words = logs.command(logs.units(RECORD, "site"), follow=True, lines="5", since="-1h; reboot", as_json=True)
    assert words[0] == "journalctl"
    assert set(words[1:]) == {
        "--no-pager", "--quiet", "--output=json", "--all", "--follow", "--lines=5", "--since=-1h; reboot",
        *(f"_SYSTEMD_UNIT=workload-site{instance}.service" for instance in ("", ".a", ".b")),
    }  # fmt: skip
    plain = logs.command(["workload-site.service"])
    assert "--output=cat" in plain
    assert "--all" not in plain, "it is asked only where nothing reaches a terminal as it is"
    several = logs.command(
        ["workload-web.service"], several=True, timestamps=True, priority="err", until="2026-11-26T08:00:00.5Z"
    )
    assert {"--output=short-iso-precise", "--all", "--priority=err", "--until=2026-11-26 08:00:00 UTC"} <= set(several)
    assert "--unit=workload-web.service" in logs.command(["workload-web.service"], all_messages=True)
    assert "--lines=all" in logs.command(["web"], follow=True)
    with pytest.raises(UsageError):
        logs.command(["web"], lines="-5")


SAID = b"10%\r20%\x1b[1;31mred\x1b[0m\x1b\x1b[0m[2J\x1b]0;title\x07\x9b2J caf\xe9 \xc2\x9b\x00\x7f\ttab \xc3\xa9\nnext"
SHOWN = r"10%\x0d20%red\x1b[2J\x1b]0;title\x07\x9b2J caf\xe9 \x9b\x00\x7f" + "\ttab é\nnext"


def test_lines_with_something_before_them_are_whole_and_harmless(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code = f"import sys; sys.stdout.buffer.write({SAID!r} * 2); sys.exit(int(sys.argv[1]))"
    assert logs.show([sys.executable, "-c", code, "0"]) == 0
    assert capfdbinary.readouterr().out.decode() == SHOWN * 2
    assert logs.show([sys.executable, "-c", code, "7"]) == EXIT_FAILED
    with pytest.raises(CommandNotFoundError):
        logs.show(["no-such-journalctl"])


def test_lines_that_are_followed_end_with_who_reads_them() -> None:
    # As journalctl does, it waits for more and for the end of who reads it.
    quiet = "import select; print('one', flush=True); end = select.poll(); end.register(1, 0); end.poll()"
    code = f"import sys; from hostctl.cli import logs; sys.exit(logs.show([sys.executable, '-c', {quiet!r}]))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as showing:
        assert showing.stdout is not None
        assert showing.stdout.readline() == b"one\n"
        showing.stdout.close()
        try:
            assert showing.wait(20) == 0
        finally:
            showing.kill()


@pytest.mark.parametrize(
    ("text", "asked"),
    [("10m", "-10m"), ("1h30m", "-1h30m"), ("yesterday", "yesterday"), ("2026-01-02T03:04:05", "2026-01-02 03:04:05")],
)
def test_times_as_docker_has_them(text: str, asked: str) -> None:
    assert logs.moment(text) == asked


def test_who_may_not_read_the_journal_is_told_so_instead_of_shown_nothing(tmp_path: Path) -> None:
    logs.require_journal(tmp_path, lambda path: False)  # there is none
    file = tmp_path / "var/log/journal/0123/system.journal"
    file.parent.mkdir(parents=True)
    file.touch()
    logs.require_journal(tmp_path, lambda path: path == file)
    with pytest.raises(logs.JournalDeniedError, match="only root"):
        logs.require_journal(tmp_path, lambda path: False)


def test_events_follow_unless_they_have_an_end() -> None:
    assert {"--follow", "--lines=0"} <= set(events.command(None, None))
    assert {"--follow", "--lines=all", "--since=-1h"} <= set(events.command("1h", None))
    assert "--follow" not in events.command("1h", "0s")
    wanted = events.filters(["action=die", "action=oom", "name=web"])
    for action, name, passes in (
        ("die", "web", True),
        ("oom", "web", True),
        ("start", "web", False),
        ("die", "x", False),
    ):
        assert events.shows(Event(time="", type="workload", action=action, name=name), wanted) is passes


class KettleError(HostctlError):
    """A failure with a code of its own."""

    id = "kettle-empty"
    exit_code = EXIT_BUSY


def test_one_failure_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def deed(name: str) -> None:
        if name == "tea":
            raise KettleError("no water")

    assert many.each(["a", "tea", "a", "b"], deed) == EXIT_BUSY
    said = capsys.readouterr()
    assert said.out == "a\nb\n"
    assert "no water" in said.err
    assert many.each(["tea", "a"], deed, as_json=True) == EXIT_BUSY
    assert json.loads(capsys.readouterr().out) == [
        {"name": "tea", "done": False, "error": "kettle-empty", "brief": "no water"},
        {"name": "a", "done": True},
    ]
    assert many.each(["a"], lambda name: 7) == 0
    assert capsys.readouterr().out == "7\n"


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (("stop", "web"), ("",)),
        (("stop", "-t", "5", "web"), ("5.0",)),
        (("kill", "web"), ("KILL",)),
        (("kill", "-s", "HUP", "web"), ("HUP",)),
        (("pause", "web"), ()),
    ],
)
def test_what_the_agent_is_asked(words: tuple[str, ...], rest: tuple[str, ...]) -> None:
    parser = argparse.ArgumentParser(prog=f"hostctl {words[0]}")
    unit.configure(parser)
    parsed = parser.parse_args(words[1:])
    parsed.verb = words[0]
    assert unit.rest_of(parsed) == rest


def test_tables_of_use() -> None:
    used = Usage(received_bytes=2048, pressure={name: Pressure(some=1.5) for name in ("cpu", "memory", "io")})
    figures = Figures(
        name="web", cpu=12.345, memory=3 << 20, memory_limit=64 << 20, memory_percent=4.7, pids=2, usage=used
    )
    assert stats.text([figures]).splitlines()[1].split() == [
        "web", "12.35%", "3MiB", "/", "64MiB", "4.70%", "2KiB", "/", "0B", "0B", "/", "0B", "2", "1.5%", "1.5%", "1.5%",
    ]  # fmt: skip
    process = Process(
        pid=9, inside=1, parent=0, user=-1, state="S", cpu_seconds=0, resident=0, age=61, command="a\x1b[31m"
    )
    assert top.text((process,)).splitlines()[1].endswith("a\\x1b[31m")
