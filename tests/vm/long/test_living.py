"""Living with running workloads: looked at, signalled, paused, waited for. Effects are read from the kernel."""

import json
import time
from collections.abc import Mapping

import pytest
from hostctl_lab import agent_deeds, agent_kills
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry

BOX = "/usr/bin/busybox"
PAGE = "a page from inside"
READY_SECONDS = 60.0
BUS_RUN = ("systemctl", "show", "dbus-broker.service", "-P", "InvocationID")
AGENT = ("org.hostctl.Host1", "/org/hostctl/Host1", "org.hostctl.Host1")
SENDER = """\
import os, socket, struct, sys

def message(kind, serial, name, path, interface, member, *more, body=b""):
    fields = b""
    for code, type, value in ((1, "o", path), (6, "s", name), (2, "s", interface), (3, "s", member), *more):
        length = bytes([len(value)]) if type == "g" else struct.pack("<I", len(value))
        fields += bytes(-len(fields) % 8) + bytes([code, 1, ord(type), 0]) + length + value.encode() + bytes(1)
    start = bytes([ord("l"), kind, 0, 1]) + struct.pack("<III", len(body), serial, len(fields))
    return start + fields + bytes(-len(fields) % 8) + body

def wait_for(text):
    said = b""
    while text not in said:
        said += bus.recv(65536) or sys.exit(f"the bus has gone after {said!r}")

bus = socket.socket(socket.AF_UNIX)
bus.settimeout(30)
bus.connect(sys.argv[1])
bus.sendall(bytes(1) + f"AUTH EXTERNAL {str(os.getuid()).encode().hex()}\\r\\n".encode())
wait_for(b"OK ")
driver = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
bus.sendall(b"BEGIN\\r\\n" + message(1, 1, *driver, "Hello"))
wait_for(b":1.")
agent = sys.argv[2:5]
more = (200, "s", "by the specification to be ignored")
bus.sendall(message(4, 2, *agent, "Progress", more))
bus.sendall(message(1, 3, *agent, "Status", (8, "g", "an"), more, body=struct.pack("<I", 1 << 20) + bytes(1 << 20)))
wait_for(b"org.freedesktop.DBus.Error.InvalidArgs")
bus.sendall(message(1, 4, *agent, "Status", more))
wait_for(b'"generation"')
print("answered")
"""
TRAP = f"trap 'echo got a hangup' HUP; while :; do {BOX} sleep 0.2; done"
ODD = f"{BOX} printf 'old\\\\015new\\\\033[2J\\\\n'; {BOX} seq -s x 2000"  # in a string of YAML


@pytest.fixture(scope="module")
def wanted(declaration: str, ssh_folder: object) -> str:
    """Return a declaration with a server, a program that prints, and a job that ends by itself."""
    key = declaration.partition('ssh_keys: ["')[2].partition('"')[0]
    with_eve = declaration.replace("users:\n", f"users:\n  eve: {{ssh_keys: ['{key}']}}\n")
    return f"""{with_eve}\
workloads:
  web:
    image: localhost/box:1
    ports: ["8080:80"]
    volumes: ["content:/data"]
    memory: 64M
    healthcheck: {{http: "http://localhost/", interval: 2s, retries: 2}}
  talk:
    image: localhost/box:1
    command: [{BOX}, sh, -c, "{TRAP}"]
  job:
    image: localhost/box:1
    command: [{BOX}, sh, -c, "{ODD}; echo '<3>it went wrong'; echo done; {BOX} sleep 20; exit 7"]
    restart: "no"
volumes: {{content: {{}}}}
metrics: {{listen: "127.0.0.1:9600"}}
"""


def show(host: Host, workload: str, *properties: str) -> Mapping[str, str]:
    """Return properties of a workload's unit."""
    said = host.text("systemctl", "show", f"workload-{workload}.service", "-p", ",".join(properties))
    return dict(line.split("=", 1) for line in said.splitlines())


def cgroup(host: Host, workload: str, file: str) -> str:
    """Return a file of a workload's cgroup."""
    return host.text("cat", f"/sys/fs/cgroup{show(host, workload, 'ControlGroup')['ControlGroup']}/{file}")


def rows(host: Host) -> dict[str, dict[str, object]]:
    """Return `hostctl ps` by name."""
    return {row["name"]: row for row in json.loads(host.text("hostctl", "ps", "--json"))}


def test_an_exit_status_is_waited_for_and_shown(host: Host, wanted: str) -> None:
    host.apply(wanted)
    host.wait_for("the page is served", lambda: PAGE in host.get(), READY_SECONDS)
    assert host.text("hostctl", "wait", "job") == "7"
    host.text("hostctl", "start", "job")
    began = time.monotonic()
    assert host.text("hostctl", "wait", "job") == "7"
    assert time.monotonic() - began > 1
    assert host.fails("hostctl", "wait", "--timeout", "0.5", "web").strip().startswith("error:")
    assert host.text("hostctl", "ps", "--filter", "name=job", "--format", "{{.Status}}") == "Exited (7)"
    assert host.text("hostctl", "ps", "-q", "--filter", "status=running").split() == ["talk", "web"]
    assert json.loads(host.text("hostctl", "inspect", "-f", "{{json .State.ExitCode}}", "job")) == 7


def test_logs_are_what_was_printed(host: Host) -> None:
    assert host.text("hostctl", "logs", "-n", "2", "job").splitlines() == ["it went wrong", "done"]
    assert host.text("hostctl", "logs", "--priority", "err", "-n", "1", "job") == "it went wrong"
    lines = host.text("hostctl", "logs", "-t", "--since", "1h", "job", "web").splitlines()
    assert any("job[" in line and line.endswith("done") and line.startswith("20") for line in lines)
    assert host.text("hostctl", "logs", "--until", "2020-01-01T00:00:00Z", "job") == ""
    assert any(line.endswith("old\\x0dnew\\x1b[2J") for line in lines)
    messages = [json.loads(line)["MESSAGE"] for line in host.text("hostctl", "logs", "--json", "job").splitlines()]
    assert any(isinstance(said, str) and said.endswith("x1999x2000") for said in messages), "it is of 8 KiB"


def test_facts_agree_with_the_kernel(host: Host) -> None:
    document = json.loads(host.text("hostctl", "inspect", "web"))
    assert document["State"]["Pid"] == int(show(host, "web", "MainPID")["MainPID"])
    assert document["HostConfig"]["Memory"] == int(cgroup(host, "web", "memory.max"))
    assert document["Mounts"][0]["Name"] == "content"
    assert document["NetworkSettings"]["IPAddress"] in host.text("hostctl", "exec", "web", "--", BOX, "ip", "addr")
    assert host.text("hostctl", "port", "web", "80") == "0.0.0.0:8080"
    processes = json.loads(host.text("hostctl", "top", "web", "--json"))
    assert sorted(each["pid"] for each in processes) == sorted(map(int, cgroup(host, "web", "cgroup.procs").split()))
    assert {each["user"] for each in processes} == {0}
    (figures,) = json.loads(host.text("hostctl", "stats", "--no-stream", "--json", "web"))
    assert figures["memory_limit"] == 64 << 20
    assert 0 < figures["usage"]["memory"] <= int(cgroup(host, "web", "memory.peak"))
    assert figures["usage"]["sent_bytes"] > 0
    assert set(figures["usage"]["pressure"]) == {"cpu", "memory", "io"}
    info = json.loads(host.text("hostctl", "info", "--json"))
    assert info["counts"]["running"] == 2
    assert info["versions"]["kernel"] == host.text("uname", "-r")
    assert host.text("crun", "--version").split()[2] in host.text("hostctl", "version")


def test_a_signal_arrives_and_a_kill_follows_the_restart_policy(host: Host) -> None:
    host.text("hostctl", "kill", "-s", "HUP", "talk")
    host.wait_for("it is printed", lambda: "got a hangup" in host.text("hostctl", "logs", "talk"), 30)
    before = show(host, "talk", "InvocationID")
    host.text("hostctl", "kill", "talk")
    host.wait_for("it runs again", lambda: show(host, "talk", "InvocationID") != before, 30)
    assert "is not running" in host.fails("hostctl", "kill", "job")
    assert "no signal" in host.fails("hostctl", "kill", "-s", "nope", "talk")


def test_a_paused_workload_does_nothing_and_is_not_restarted(host: Host) -> None:
    before = show(host, "web", "InvocationID")
    host.text("hostctl", "pause", "web", "talk")
    assert "frozen 1" in cgroup(host, "web", "cgroup.events")
    assert rows(host)["web"]["paused"] is True
    spent = cgroup(host, "talk", "cpu.stat").splitlines()[0]
    assert host.get() == ""
    assert cgroup(host, "talk", "cpu.stat").splitlines()[0] == spent
    host.text("hostctl", "unpause", "web", "talk")
    host.wait_for("the page is served", lambda: PAGE in host.get(), READY_SECONDS)
    assert show(host, "web", "InvocationID") == before
    assert show(host, "web", "NRestarts")["NRestarts"] == "0"
    host.wait_for("it is checked again", lambda: rows(host)["web"]["health"] == "healthy", 60)
    host.text("hostctl", "pause", "talk")
    host.text("hostctl", "stop", "-t", "2", "talk")
    assert show(host, "talk", "ActiveState", "MainPID") == {"ActiveState": "inactive", "MainPID": "0"}
    host.text("hostctl", "start", "talk")


def test_a_paused_workload_can_be_changed_and_killed_and_runs_afterwards(host: Host, wanted: str) -> None:
    host.text("hostctl", "pause", "talk")
    host.apply(wanted.replace("trap 'echo got", "echo declared anew; trap 'echo got"))
    host.wait_for("what is declared now", lambda: "declared anew" in host.text("hostctl", "logs", "talk"), 60)
    assert show(host, "talk", "ActiveState", "FreezerState") == {"ActiveState": "active", "FreezerState": "running"}
    before = show(host, "talk", "InvocationID")
    host.text("hostctl", "pause", "talk")
    host.text("hostctl", "kill", "talk")
    host.wait_for("another runs", lambda: show(host, "talk", "InvocationID") != before, 60)
    host.wait_for("it is up", lambda: show(host, "talk", "ActiveState") == {"ActiveState": "active"}, 60)
    host.text("hostctl", "pause", "talk")
    host.apply(wanted)
    assert show(host, "talk", "ActiveState", "FreezerState") == {"ActiveState": "active", "FreezerState": "running"}


def test_limits_change_at_once_until_they_are_declared_anew(host: Host) -> None:
    before = show(host, "web", "InvocationID")
    host.text("hostctl", "limits", "web", "--memory", "96M", "--cpus", "0.5", "--pids", "77")
    assert cgroup(host, "web", "memory.max") == str(96 << 20)
    assert cgroup(host, "web", "cpu.max") == "50000 100000"
    assert cgroup(host, "web", "pids.max") == "77"
    assert json.loads(host.text("hostctl", "limits", "web", "--json"))["changed"] is True
    host.text("hostctl", "limits", "web", "--reset")
    assert cgroup(host, "web", "memory.max") == str(64 << 20)
    assert show(host, "web", "InvocationID") == before


def test_an_impatient_stop_kills(host: Host) -> None:
    process = show(host, "talk", "MainPID")["MainPID"]
    host.text("kill", "-STOP", process)  # now it cannot answer a polite request
    began = time.monotonic()
    host.text("hostctl", "stop", "-t", "1", "talk")
    assert time.monotonic() - began < 25, "the unit's own 30 s"
    assert show(host, "talk", "ActiveState")["ActiveState"] in ("inactive", "failed")
    host.text("systemctl", "reset-failed", "workload-talk.service")
    said = host.run("hostctl", "start", "talk", "nope", check=False)
    assert said.status == 2
    assert said.text.strip() == "talk"
    assert b"'nope'" in said.stderr


def on_terminal(host: Host, *words: str) -> str:
    """Return what `hostctl exec` shows on a terminal of the host."""
    argv = ["hostctl", "exec", *words]
    return host.text("python3", "-c", f"import pty, sys; sys.exit(pty.spawn({argv!r}) >> 8)")


def test_a_command_runs_as_whom_and_where_it_is_told(host: Host) -> None:
    assert (
        inside(host, "-w", "/srv", "-e", "GREETING=hi", "talk", "--", BOX, "sh", "-c", "pwd; echo $GREETING")
        == "/srv\nhi"
    )
    assert host.run("hostctl", "exec", "talk", "--", BOX, "sh", "-c", "kill -9 $$", check=False).status == 137
    assert host.text("hostctl", "exec", "-i", "talk", "--", BOX, "tr", "a-z", "A-Z", stdin="shout") == "SHOUT"
    assert host.text("hostctl", "exec", "talk", "--", BOX, "cat", stdin="shout") == ""
    host.shell("printf 'app:x:1234:5:::\\n' >/run/passwd; printf 'video:x:44:app\\n' >/run/group")
    host.text("hostctl", "cp", "/run/passwd", "talk:/etc/passwd")
    host.text("hostctl", "cp", "/run/group", "talk:/etc/group")
    assert inside(host, "-u", "app", "talk", "--", BOX, "id").startswith("uid=1234(app) gid=5 groups=44(video)")
    assert inside(host, "-u", "77:78", "talk", "--", BOX, "id").startswith("uid=77 gid=78")
    for nobody in ("nobody", "-1", "0x0", "1:"):
        assert host.run("hostctl", "exec", f"--user={nobody}", "talk", "--", BOX, "id", check=False).status == 2
    for program, status in (("/nope", 127), ("/etc", 126)):
        done = host.run("hostctl", "exec", "talk", "--", program, check=False)
        assert (done.status, b"cannot be run in workload talk" in done.stderr) == (status, True)
    group = inside(host, "talk", "--", BOX, "cat", "/proc/self/cgroup")
    assert host.shell("cat /sys/fs/cgroup/system.slice/workload-talk.service/pids.max") == "1024"
    assert group == "0::/"  # the root of its own cgroup namespace, so below its own limits


def script(host: Host, workload: str, text: str) -> str:
    """Return what a shell script prints in a workload, whose image has no links to its one program."""
    aliases = f'for a in mkdir rm ln mv stty cat; do alias $a="{BOX} $a"; done\n'
    return inside(host, workload, "--", BOX, "sh", "-c", aliases + text)


def inside(host: Host, *words: str) -> str:
    """Return what a command prints in a workload."""
    return host.text("hostctl", "exec", *words)


def test_a_terminal_is_one_of_the_workloads_own(host: Host) -> None:
    assert "/dev/pts/0" in on_terminal(host, "-t", "talk", "--", BOX, "tty")
    assert "both" in on_terminal(host, "talk", "--", BOX, "sh", "-c", "test -t 0 && test -t 1 && echo both")
    assert "no terminal" in host.fails("hostctl", "exec", "-t", "talk", "--", BOX, "true")
    links = f"for n in 0 1 2; do {BOX} readlink /proc/$$/fd/$n; done"
    own = on_terminal(host, "-iT", "talk", "--", BOX, "sh", "-c", links)
    assert own.count("pipe:") == 3, "the terminal of the host is never open inside"
    argv = ["hostctl", "exec", "talk", "--", BOX, "sh", "-c", "exit 9"]
    code = f"import pty, sys; sys.exit(pty.spawn({argv!r}) >> 8)"
    assert host.run("python3", "-c", code, check=False).status == 9
    done = host.run("python3", "-c", code.replace(repr(BOX), "'/nope'"), check=False)
    assert (done.status, "'/nope' cannot be run in workload talk" in done.text) == (127, True)
    assert host.shell("ls /run/hostctl/exec") == ""


def test_commands_end_with_their_callers_and_hold_up_nobody(host: Host) -> None:
    before = show(host, "talk", "InvocationID")
    nap = f"hostctl exec talk -- {BOX} sh -c '{BOX} sleep 1234567; :' </dev/null >/dev/null 2>&1"
    host.shell(f"rm -f /run/callers; for i in $(seq 12); do {nap} & echo $! >>/run/callers; done")

    def napping() -> int:
        return int(host.shell("grep -lzx 123456[7] /proc/[0-9]*/cmdline 2>/dev/null | wc -l"))

    host.wait_for("twelve commands", lambda: napping() == 12, 120)
    assert host.run("busctl", "--timeout=20", "call", *AGENT, "Status").status == 0
    assert inside(host, "talk", "--", BOX, "echo", "one more") == "one more"
    host.shell("kill -KILL $(cat /run/callers)")
    host.wait_for("the end of what they started", lambda: napping() == 0, 60)
    script = "import os, pty, signal, time\npid, tty = pty.fork()\n"
    script += f"pid or os.execvp('hostctl', ['hostctl', 'exec', 'talk', '--', '{BOX}', 'sleep', '1234567'])\n"
    script += "time.sleep(20)\nos.kill(pid, signal.SIGKILL)\n"
    host.text("python3", "-c", script)
    host.wait_for("the end of what was on the terminal", lambda: napping() == 0, 60)
    assert show(host, "talk", "InvocationID") == before


def test_messages_of_a_plain_user_end_nothing(host: Host) -> None:
    nap = f"hostctl exec talk -- {BOX} sh -c '{BOX} sleep 7654321; :' </dev/null >/dev/null 2>&1"
    host.shell(f"{nap} & echo $! >/run/caller")
    napping = "grep -lzx 765432[1] /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
    host.wait_for("the command", lambda: host.shell(napping) == "1", 60)
    agent = host.text("systemctl", "show", "hostd.service", "-P", "MainPID")
    said = host.run("python3", "-c", SENDER, "/run/dbus/system_bus_socket", *AGENT, user="eve")
    assert said.text.strip() == "answered"
    assert host.text("systemctl", "show", "hostd.service", "-P", "MainPID") == agent
    assert host.shell(napping) == "1"
    host.shell("kill -KILL $(cat /run/caller)")
    host.wait_for("the end of the command", lambda: host.shell(napping) == "0", 60)


def test_an_agent_that_is_stopped_is_killed_and_another_answers(host: Host) -> None:
    host.run("busctl", "--timeout=60", "call", *AGENT, "Status")
    stopped = host.text("systemctl", "show", "hostd.service", "-P", "MainPID")
    assert int(stopped)
    host.run("kill", "-STOP", stopped)

    def another() -> bool:
        answered = host.run("busctl", "--timeout=5", "call", *AGENT, "Status", check=False).status == 0
        return answered and host.text("systemctl", "show", "hostd.service", "-P", "MainPID") != stopped

    host.wait_for("another agent", another, 120)


def test_a_bus_that_dies_is_there_again_without_being_called(host: Host) -> None:
    before, dead = show(host, "web", "InvocationID"), host.text(*BUS_RUN)
    host.run("systemctl", "kill", "--signal=KILL", "dbus-broker.service")

    def another() -> bool:  # systemctl speaks to systemd itself, and so starts no bus
        up = host.run("systemctl", "is-active", "dbus-broker.service", check=False).status == 0
        return up and host.text(*BUS_RUN) != dead

    host.wait_for("another bus", another, 30)
    assert host.run("busctl", "--timeout=60", "call", *AGENT, "Status").status == 0
    assert show(host, "web", "InvocationID") == before


def test_files_go_in_and_out_and_never_elsewhere(host: Host) -> None:
    host.shell(
        "rm -rf /run/t; mkdir -p /run/t/tree/sub; echo one >/run/t/tree/sub/one; ln -s /etc/shadow /run/t/tree/link"
    )
    host.text("hostctl", "cp", "/run/t/tree", "web:/data/")
    first = int(host.shell("stat -c %u /var/lib/hostctl/volumes/content/tree/sub/one"))
    assert first == 0, "in a volume the numbers are the workload's own"
    assert inside(host, "web", "--", BOX, "cat", "/data/tree/sub/one") == "one"
    host.text("hostctl", "cp", "web:/data/tree/.", "/run/t/back")
    assert host.shell("cd /run/t/back && find . | sort && readlink link") == ".\n./link\n./sub\n./sub/one\n/etc/shadow"
    host.text("hostctl", "cp", "/run/t/back/.", "web:/data/made")  # makes a folder, and replaces no file
    assert inside(host, "web", "--", BOX, "cat", "/data/made/sub/one") == "one"
    host.fails("hostctl", "cp", "/run/t/back/.", "web:/data/made/sub/one")
    assert "no such folder" in host.shell("tar c -C /run/t/tree sub link | hostctl cp - web:/data/missing 2>&1 || true")
    assert inside(host, "web", "--", BOX, "cat", "/data/made/sub/one") == "one"
    before = host.shell("stat -c '%a %u' /tmp")
    host.text("hostctl", "cp", "web:/data/tree/.", "/tmp")
    assert host.shell("stat -c '%a %u' /tmp; cat /tmp/sub/one") == f"{before}\none"
    host.shell("rm -r /tmp/sub /tmp/link")
    host.text("hostctl", "cp", "talk:/usr/bin/busybox", "/run/t/bb")
    assert host.shell("sha256sum </run/t/bb") == inside(host, "talk", "--", BOX, "sha256sum", BOX).split()[0] + "  -"
    # a workload points its paths at the host's files: what is meant is its own, or nothing
    script(host, "talk", "ln -s /proc/1/root/etc /e; ln -s ../../../../etc/shadow /s")
    script(host, "talk", "mkdir /d; echo x >/d/y; ln -s /d/y /l")
    host.fails("hostctl", "cp", "talk:/e/os-release", "/run/t/stolen")
    host.text("hostctl", "cp", "talk:/s", "/run/t/link")
    assert host.shell("test -L /run/t/link && readlink /run/t/link") == "../../../../etc/shadow"
    host.text("hostctl", "cp", "-L", "talk:/l", "/run/t/l")
    assert host.shell("test ! -L /run/t/l && cat /run/t/l") == "x"
    host.fails("hostctl", "cp", "-L", "talk:/e", "/run/t/stolen")
    script(host, "talk", "ln -s /d /current")  # is followed where a folder is meant, as far as it leads to one inside
    host.text("hostctl", "cp", "talk:/current/.", "/run/t/contents")
    host.text("hostctl", "cp", "talk:/current/", "/run/t/folder")
    assert host.shell("cat /run/t/contents/y /run/t/folder/y") == "x\nx"
    host.fails("hostctl", "cp", "talk:/e/.", "/run/t/stolen")
    host.fails("hostctl", "cp", "talk:/d/y/.", "/run/t/none")
    host.text("hostctl", "cp", "/run/t/bb", "talk:/s")  # replaces the link, and does not follow it
    assert host.shell("head -c4 /etc/shadow || true") != "\x7fELF"
    assert host.shell("hostctl cp talk:/d - | tar t") == "d/\nd/y"
    host.shell("tar c -C /run/t/tree sub | hostctl cp - talk:/d")
    assert inside(host, "talk", "--", BOX, "cat", "/d/sub/one") == "one"


def test_a_race_of_links_inside_copies_nothing_of_the_host(host: Host) -> None:
    moves = "; ".join(f"{BOX} mv -T /r/{old} /r/{new}" for old, new in (("a", "c"), ("b", "a"), ("a", "b"), ("c", "a")))
    race = f"{BOX} mkdir -p /r/a; echo own >/r/a/shadow; {BOX} ln -s /etc /r/b; while :; do {moves}; done"
    host.shell(f"hostctl exec talk -- {BOX} sh -c '{race}' >/dev/null 2>&1 & echo $! >/run/racer")
    said = host.shell(
        "for i in $(seq 12); do hostctl cp talk:/r/a/shadow - 2>/dev/null | tar xO 2>/dev/null || true; done",
        seconds=600,
    )
    assert set(said.split()) <= {"own"}
    host.shell("kill $(cat /run/racer); hostctl restart -t 1 talk")


def test_a_volume_is_saved_and_restored_whole(host: Host) -> None:
    host.shell("hostctl volume create scratch && hostctl volume rm scratch")
    rows = {row["name"]: row for row in json.loads(host.text("hostctl", "volume", "ls", "--json"))}
    assert (rows["content"]["declared"], rows["content"]["running"]) == (True, ["web"])
    assert "in use" in host.fails("hostctl", "volume", "rm", "content")
    assert "in use" in host.fails("hostctl", "volume", "backup", "content", "-o", "/run/t/b")
    inside(host, "web", "--", BOX, "sh", "-c", f"echo kept >/data/kept; {BOX} chown 33:44 /data/kept")
    digest = host.text("hostctl", "volume", "backup", "--live", "content", "-o", "/run/t/b").split()[0]
    assert host.shell("sha256sum /run/t/b").split()[0] == digest
    before = host.shell("cd /var/lib/hostctl/volumes/content && find . -printf '%p %U %G %m %s\\n' | sort")
    inside(host, "web", "--", BOX, "sh", "-c", f"{BOX} rm -rf /data/tree /data/kept; echo new >/data/new")
    assert "in use" in host.fails("hostctl", "volume", "restore", "content", "-i", "/run/t/b")
    host.shell("head -c -1 /run/t/b >/run/t/cut")
    assert "cut off" in host.fails("hostctl", "volume", "restore", "--live", "content", "-i", "/run/t/cut")
    assert inside(host, "web", "--", BOX, "cat", "/data/new") == "new"
    host.text("hostctl", "volume", "restore", "--live", "content", "-i", "/run/t/b", "--sha256", digest)
    host.wait_for("the page is served", lambda: PAGE in host.get(), READY_SECONDS)
    assert host.shell("cd /var/lib/hostctl/volumes/content && find . -printf '%p %U %G %m %s\\n' | sort") == before
    assert inside(host, "web", "--", BOX, "stat", "-c", "%u:%g", "/data/kept") == "33:44"
    assert host.shell("ls -A /var/lib/hostctl/volumes") == "content"


def test_what_was_changed_is_told_and_exported(host: Host) -> None:
    script(host, "talk", "mkdir /new; echo x >/new/file; rm /srv/index.html; echo y >/etc/hosts.new")
    lines = host.text("hostctl", "diff", "talk").splitlines()
    assert {"A /new", "A /new/file", "D /srv/index.html", "C /srv", "A /etc/hosts.new"} <= set(lines)
    host.text("hostctl", "export", "web", "-o", "/run/t/web.tar")
    names = [name.rstrip("/") for name in host.shell("tar tf /run/t/web.tar").splitlines()]
    assert {"./usr/bin/busybox", "./srv/index.html", "./data"} <= set(names)
    assert not [name for name in names if name.startswith(("./data/", "./proc/", "./dev/"))]
    host.text("hostctl", "restart", "talk")
    assert "A /new" not in host.text("hostctl", "diff", "talk")


def test_attach_follows_to_the_end(host: Host) -> None:
    host.text("hostctl", "start", "job")
    done = host.run("hostctl", "attach", "job", check=False)
    assert done.status == 7


def test_what_is_waited_for_is_left_by_a_ctrl_c(host: Host) -> None:
    words = ("timeout", "--preserve-status", "--signal=INT", "--kill-after=30", "20", "hostctl", "wait", "talk")
    assert host.run(*words, check=False).status == 130


def test_events_tell_it_all(host: Host) -> None:
    lines = host.text("hostctl", "events", "--since", "1h", "--until", "0s").splitlines()
    seen = [(event["action"], event["name"]) for event in map(json.loads, lines)]
    for wanted in (
        ("apply", "2"),
        ("start", "web"),
        ("die", "job"),
        ("kill", "talk"),
        ("pause", "web"),
        ("stop", "talk"),
        ("health_status", "web"),
    ):
        assert wanted in seen, wanted
    died = host.text("hostctl", "events", "--since", "1h", "--until", "0s", "-f", "name=job", "-f", "action=die")
    assert json.loads(died.splitlines()[0])["attributes"]["exit_status"] == "7"
    host.shell("hostctl events >/run/events & sleep 3; hostctl restart talk; sleep 3; kill $!")
    assert {"stop", "start"} <= {json.loads(line)["action"] for line in host.text("cat", "/run/events").splitlines()}


def fetch(host: Host) -> str:
    """Return what the metrics' address answers."""
    code = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9600/metrics', timeout=30).read().decode())"
    return host.text("python3", "-c", code)


def test_metrics_are_there_when_asked_for_and_nothing_is_resident(host: Host) -> None:
    assert host.text("systemctl", "is-active", "hostctl-metrics.socket") == "active"
    page = fetch(host).splitlines()
    assert 'hostctl_workload_up{workload="web"} 1' in page
    assert f'hostctl_workload_memory_limit_bytes{{workload="web"}} {64 << 20}' in page
    assert sum(line.startswith("hostctl_state{") and line.endswith(" 1") for line in page) == 1
    assert any(line.startswith("hostctl_slot_running{release=") and line.endswith(" 1") for line in page)
    seconds = next(line for line in page if line.startswith('hostctl_workload_cpu_seconds_total{workload="web"}'))
    assert 0 < float(seconds.split()[1]) <= int(cgroup(host, "web", "cpu.stat").split()[1]) / 1e6
    user = host.text("systemctl", "show", "hostctl-metrics.service", "-P", "MainPID")
    assert host.shell(f"stat -c %u /proc/{user}") != "0"
    over = lambda: host.text("systemctl", "show", "hostctl-metrics.service", "-P", "ActiveState") == "inactive"  # noqa: E731
    host.wait_for("it has ended", over, 120)
    assert 'hostctl_workload_up{workload="web"} 1' in fetch(host)


def test_only_root_and_sudo_users_may_change_anything(host: Host) -> None:
    before = show(host, "talk", "InvocationID")
    for words in (("stop", "talk"), ("kill", "talk"), ("pause", "talk"), ("restart", "talk")):
        done = host.run("hostctl", *words, user="eve", check=False)
        assert done.status == 1
        assert b"root and users with sudo" in done.stderr
    assert host.run("hostctl", "exec", "talk", "--", BOX, "id", user="eve", check=False).status == 125
    assert show(host, "talk", "InvocationID") == before
    assert "talk" in host.run("hostctl", "ps", user="eve").text
    assert host.run("sudo", "hostctl", "logs", "job", user="ops").text.splitlines()[-1] == "done"
    for line in ("logs job", "events --since 1h --until 0s"):
        for user in ("ops", "eve"):
            assert b"only root may read" in host.run("hostctl", *line.split(), user=user, check=False).stderr
    assert "talk" in host.run("hostctl", "stats", "--no-stream", user="eve").text
    host.run("hostctl", "restart", "talk", user="ops")
    assert show(host, "talk", "InvocationID") != before
    xml = host.text("busctl", "call", "org.hostctl.Host1", "/org/hostctl/Host1", *INTROSPECT)
    assert "Let nothing of a workload run until it is unpaused" in xml


def test_what_is_not_declared_runs_only_where_that_is_allowed(host: Host, wanted: str) -> None:
    words = ("hostctl", "run", "--rm", "localhost/box:1")
    assert "allow_run" in host.fails(*words)
    before = show(host, "web", "InvocationID")
    host.apply(f"{wanted}allow_run: true\n")
    done = host.run(
        "hostctl", "run", "--rm", "--entrypoint", BOX, "localhost/box:1", "sh", "-c", "echo ran; exit 5", check=False
    )
    assert (done.status, done.text.strip()) == (5, "ran")
    run = f"timeout 100 hostctl run --rm --entrypoint {BOX} localhost/box:1 sh -c"
    endless = f"while :; do echo line; {BOX} sleep 0.2; done"
    assert host.shell(f"{run} '{endless}' | head -n 1") == "line"
    lines = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo a line that is long enough to fill a pipe $i; done"
    assert host.shell(f"{run} '{lines}' | (sleep 20; wc -l)") == "3000"
    host.wait_for("both are gone", lambda: "run-" not in host.text("hostctl", "ps", "-q"), 60)
    assert host.run("hostctl", "run", "--cap-add", "SYS_ADMIN", "localhost/box:1", check=False).status == 125
    quick = ("hostctl", "run", "--name", "quick", "--entrypoint", BOX, "localhost/box:1")
    for status in ("0", "3"):  # it is over before systemd looks; and nothing of the run before is shown
        done = host.run(*quick, "sh", "-c", f"echo {status}; exit {status}", check=False)
        assert (str(done.status), done.text.strip()) == (status, status)
        assert host.shell("ls /etc/systemd/system/multi-user.target.wants | grep -c quick || true") == "0"
        host.text("hostctl", "rm", "quick")
    assert host.text("hostctl", "run", "-d", "--name", "x", "--memory", "32M", "localhost/box:1") == "run-x"
    assert cgroup(host, "run-x", "memory.max") == str(32 << 20)
    assert inside(host, "x", "--", BOX, "id", "-u") == "0"
    for verb in ("stop", "start", "logs", "inspect", "port"):
        host.text("hostctl", verb, "x")
    assert "is declared" in host.fails("hostctl", "rm", "web")
    host.text("hostctl", "rm", "x")
    assert host.run("hostctl", "rm", "x", check=False).status == 2
    host.text("hostctl", "rm", "-f", "x")
    assert host.run("systemctl", "cat", "workload-run-x.service", check=False).status != 0
    assert show(host, "web", "InvocationID") == before


def test_nothing_is_lost_when_the_agent_is_killed(host: Host, declaration: str, registry: Registry) -> None:
    base = declaration.replace('files:\n  /etc/motd: {content: "first\\n"}\n', "")
    done = list(agent_kills.trials(host, agent_deeds.prepare(host, base, registry), 8, seed=1))
    assert [trial.problem for trial in done if trial.problem] == []
    assert sum(trial.killed for trial in done) >= 8


INTROSPECT = ("org.freedesktop.DBus.Introspectable", "Introspect")
