"""Docker's command lines: those that scripts have are understood, and one failure of several loses nothing."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hostctl.agent import bus
from hostctl.agent.event_log import Event
from hostctl.agent.network_view import NetworkView
from hostctl.agent.overview import WorkloadStatus
from hostctl.agent.usage import Figures
from hostctl.cli import events, filters, formats, images, network, pull, rm, rmi, search, stats, unit, volume
from hostctl.cli.main import VERBS, main, parser_of
from hostctl.cli.ps import newest
from hostctl.errors import EXIT_BUSY, UsageError

LINES = """
ps -a
ps -aq
ps -q --no-trunc
ps -n 3
ps --last 2
ps -l
ps --latest -q
ps --filter label=team=shop --filter status=running
ps -f name=web --format '{{.Names}}'
ps --format json
images -a
images -q -f dangling=true
images --filter reference=nginx --format '{{.Repository}}:{{.Tag}}'
images --no-trunc --digests nginx
image ls
image ls -q --filter dangling=true
image rm nginx:1
image rm -f nginx:1 redis:7
image inspect -f '{{.Id}}' nginx
image inspect nginx:1 redis:7
image history --no-trunc nginx
image prune -f
image prune -a -f
image prune -af
rmi -f nginx:1 redis:7
rmi --force nginx:1
rmi --no-prune nginx:1
pull -q nginx redis:7
push nginx:1
tag nginx:1 r.example/web:2
save -o images.tar nginx:1 redis:7
load -q -i images.tar
search --limit 5 nginx
search --no-trunc --format '{{.Name}}' nginx
search -f stars=3 --filter is-official=true nginx
rm web
rm -f web cache
rm -fv web
rm --force --volumes web
start web cache
stop web
stop -t 5 web cache
stop --time 5 web
stop --timeout 5 web
stop -s SIGKILL web
stop --signal KILL -t 1 web
restart -t 5 web
restart --timeout 5 -s KILL web
kill web
kill -s HUP web
kill --signal SIGTERM web cache
pause web
unpause web
wait web cache
top web
port web 80/tcp
stats --no-stream
stats -a --no-stream
stats --no-stream --no-trunc --format '{{.Name}}' web
stats --all --format json
logs -f web
logs --tail 5 -t web
logs --since 1h --until 5m web
inspect -f '{{.State.Pid}}' web
inspect --format '{{json .}}' web cache
attach web
cp web:/etc/passwd .
cp -a web:/srv .
cp -L web:/etc/localtime .
cp -aLq link web:/srv
cp --follow-link --archive link web:/srv
cp - web:/srv
diff web
export -o web.tar web
commit -m text -a me web site:2
rename web site
run -d --name web -p 80:80 -e A=1 -v data:/data -m 64M --restart always nginx
run --rm nginx sh -c true
create --name web nginx
exec -it web sh
exec -u 0 -w / -e A=1 web id -u
network ls
network ls -q --no-trunc
network ls -f name=back --filter driver=bridge
network ls --format '{{.Name}}'
network inspect -f '{{.Driver}}' back front
network connect --alias db --ip 10.89.0.9 back web
network disconnect -f back web
volume ls
volume ls -q -f dangling=true
volume ls --filter name=data --format '{{.Name}}'
volume create data
volume inspect -f '{{.Mountpoint}}' data
volume rm data
volume rm -f data logs
volume rm --force data
volume prune -f
volume prune -a -f
events --since 1h --until 0s
events --filter container=web --filter event=die
events -f type=image -f image=nginx
info
info -f '{{.Images}}'
info --format '{{json .}}'
version
version --format '{{.Server.Version}}'
version -f '{{.Client.Version}}'
build -t site:2 .
build --no-cache --pull -t site:2 -f site/Containerfile .
build -q --target test --build-arg A=1 .
login -u me --password-stdin r.example
logout r.example
"""


@pytest.mark.parametrize("line", LINES.strip().splitlines())
def test_a_command_line_of_docker_is_understood(line: str) -> None:
    verb, *words = shlex.split(line)
    host = [each for each in VERBS if each.name == verb and (each.on_host or verb in ("image", "version"))]
    parsed = parser_of(host[0]).parse_args(words)
    if verb == "events":
        events.filters(parsed.filter)


class Agent:
    """Stands for the agent on the bus: what it answers by method and first argument, or how it fails."""

    def __init__(self, answers: Mapping[tuple[str, str], object]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    def __call__(self, member: str, *arguments: str, **more: object) -> str:
        self.asked.append((member, arguments[0]))
        answer = self.answers[member, arguments[0]]
        if isinstance(answer, str):
            raise bus.remote_error(json.dumps({"id": answer, "brief": f"no {arguments[0]}", "details": "", "hint": "",
                                               "exit_code": EXIT_BUSY}))  # fmt: skip
        return json.dumps(answer)


def gone(name: str) -> dict[str, object]:
    return {"untagged": [name], "deleted": []}


def image(name: str) -> dict[str, object]:
    return {"reference": name, "digest": f"sha256:{name[-1]}"}


A, B, C = (f"r.example/{name}:1" for name in "abc")
SEVERAL: list[tuple[Callable[[argparse.Namespace], int], str, dict[str, object], list[str]]] = [
    (rmi.run, "RemoveImage", {A: gone(A), B: "image-in-use", C: gone(C)}, [f"Untagged: {A}", f"Untagged: {C}"]),
    (pull.run, "PullImage", {A: image(A), B: "registry", C: image(C)}, [A, C]),
    (rm.run, "Remove", {A: {}, B: "busy", C: {}}, [A, C]),
]


@pytest.mark.parametrize(("run", "member", "answers", "printed"), SEVERAL)
@pytest.mark.parametrize("as_json", [False, True])
def test_one_that_fails_stops_no_other_and_loses_nothing(
    run: Callable[[argparse.Namespace], int],
    member: str,
    answers: dict[str, object],
    printed: list[str],
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent = Agent({(member, name): answer for name, answer in answers.items()})
    monkeypatch.setattr(bus, "call", agent)
    words = argparse.Namespace(image=[A, B, C], workload=[A, B, C], json=as_json, quiet=True, force=False)
    assert run(words) == EXIT_BUSY
    assert agent.asked == [(member, name) for name in (A, B, C)], "one after the other"
    said = capsys.readouterr()
    if as_json:
        document = json.loads(said.out)
        rows = document["failed"] if isinstance(document, dict) else document
        failures = [row for row in rows if row.get("done") is False]
        assert [(row["name"], row["brief"]) for row in failures] == [(B, f"no {B}")]
        assert A in said.out
        assert C in said.out
    else:
        assert said.out.splitlines() == printed
        assert f"no {B}" in said.err


def test_what_is_not_there_is_removed_by_force(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bus, "call", Agent({("Remove", "x"): "run-unknown", ("RemoveVolume", "x"): "unknown-volume"}))
    words = argparse.Namespace(workload=["x"], volume=["x"], action="rm", json=False, force=False)
    assert (rm.run(words), volume.run(words)) == (EXIT_BUSY, EXIT_BUSY)
    words.force = True
    assert (rm.run(words), volume.run(words)) == (0, 0)
    assert capsys.readouterr().err.count("no x") == 4, "it is told, as Docker does"


def test_an_image_is_removed_by_force_with_all_of_its_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hostctl_lab.images import layout  # noqa: PLC0415 - only here

    from hostctl.image.store import ImageStore  # noqa: PLC0415 - as above

    store = ImageStore(tmp_path / "store")
    digest = layout(tmp_path / "image", b"image")
    store.name(store.add(tmp_path / "image", digest, A, make=lambda out: ("sh", "-c", f"cat >{out}")), B)
    monkeypatch.setattr(images, "open_store", lambda: store)
    agent = Agent({("RemoveImage", name): gone(name) for name in (A, B)})
    monkeypatch.setattr(bus, "call", agent)
    words = argparse.Namespace(image=[digest[:20]], json=False, force=True)
    assert rmi.run(words) == 0
    assert agent.asked == [("RemoveImage", A), ("RemoveImage", B)]
    words.image = ["r.example/nope:1"]
    assert rmi.run(words) == 0


def test_filters_hold_together() -> None:
    rows = ("web", "worker", "db")
    kinds = {"name": filters.matches, "long": lambda row, wanted: filters.truth(wanted) == (len(row) > 3)}
    assert filters.chosen(rows, ["name=w*", "name=db"], kinds) == rows
    assert filters.chosen(rows, ["name=w*", "long=false"], kinds) == ("web",)
    for wrong in ("name", "size=1", "long=maybe"):
        with pytest.raises(UsageError):
            filters.chosen(rows, [wrong], kinds)
    assert filters.labelled({"team": "shop"}, "team")
    assert filters.labelled({"team": "shop"}, "team=shop")
    assert not filters.labelled({"team": "shop"}, "team=other")
    assert not filters.labelled({}, "team")


def test_what_is_listed_is_filtered_and_formatted() -> None:
    found = (
        NetworkView(name="back", driver="bridge", subnet="", gateway=""),
        NetworkView(name="front", driver="macvlan", subnet="", gateway="", workloads={"web": None}),  # type: ignore[dict-item]
    )
    assert filters.chosen(found, ["dangling=true"], network.FILTERS) == found[:1]
    assert filters.chosen(found, ["driver=macvlan", "name=f*"], network.FILTERS) == found[1:]
    volumes: list[dict[str, object]] = [
        {"name": "data", "declared": True, "workloads": []},
        {"name": "old", "declared": False, "workloads": []},
    ]
    assert filters.chosen(volumes, ["dangling=1"], volume.FILTERS) == (volumes[1],)
    hub = [
        {"name": "nginx", "description": "d", "stars": 9, "official": True},
        {"name": "n", "stars": 1, "official": False},
    ]
    assert [each["name"] for each in filters.chosen(hub, ["stars=3"], search.FILTERS)] == ["nginx"]
    assert formats.render("{{.Name}} {{.StarCount}}", [search.fields(hub[0], whole=True)]) == "nginx 9"
    assert formats.render("json", [{"a": 1}, {"a": 2}]) == '{"a": 1}\n{"a": 2}'


def test_all_are_shown_with_what_they_use(capsys: pytest.CaptureFixture[str]) -> None:
    rows = stats.with_others((), ["web"])
    assert formats.render("{{.Name}} {{.CPUPerc}} {{.PIDs}}", [stats.fields(row) for row in rows]) == "web 0.00% 0"
    assert stats.text(rows).splitlines()[1].split()[-3:] == ["-", "-", "-"]
    busy = Figures(name="web", cpu=1.0, memory=1, memory_limit=2, memory_percent=50.0, pids=3, usage=rows[0].usage)
    assert stats.with_others((busy,), ["web", "db"]) == (*stats.with_others((), ["db"]), busy)


def test_the_latest_is_the_one_that_was_started_last() -> None:
    def row(name: str, up_for: float) -> WorkloadStatus:
        more = {"image": "", "digest": "", "state": "", "sub": "", "health": "", "main_pid": 0, "restarts": 0}
        return WorkloadStatus(name=name, up_for=up_for, **more)  # type: ignore[arg-type]

    rows = (row("old", 99.0), row("down", 0.0), row("new", 1.0))
    assert [each.name for each in newest(rows, 2)] == ["new", "old"]
    assert newest(rows, 0) == ()


def test_events_are_filtered_in_dockers_words() -> None:
    wanted = events.filters(["container=web", "event=die"])
    for kind, action, passes in (("workload", "die", True), ("volume", "die", False), ("workload", "start", False)):
        assert events.shows(Event(time="", type=kind, action=action, name="web"), wanted) is passes


def test_a_workload_is_stopped_by_its_own_signal_or_killed() -> None:
    words = argparse.Namespace(verb="stop", time=5.0, signal="sigkill")
    assert unit.rest_of(words) == ("0.0",)
    words.signal = "INT"
    with pytest.raises(UsageError) as caught:
        unit.rest_of(words)
    assert "stop_signal" in caught.value.hint


def test_versions_are_had_by_dockers_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--format", "{{.Server.Version}} {{.Client.Version}}"]) == 0
    server, client = capsys.readouterr().out.split()
    assert server == client
