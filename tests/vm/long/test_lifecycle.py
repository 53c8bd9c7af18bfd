"""When and how workloads run: order, readiness, jobs, schedules, sockets, restarts; what else confines them."""

import json

import pytest
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry
from hostctl_lab.releases import Lab

BOX = "/usr/bin/busybox"
FOREVER = f"exec {BOX} sleep 1000000"
READY_SECONDS = 90.0
TRIES = 5
NOTIFY_AFTER = 4.0
NOTIFIER = f"""
import os, socket, time
time.sleep({NOTIFY_AFTER})
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as said:
    said.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
time.sleep(1000000)
"""
SERVER = """
import os, select, socket
assert os.environ['LISTEN_PID'] == str(os.getpid()), os.environ
assert os.environ['LISTEN_FDS'] == '2', os.environ
listeners = [socket.socket(fileno=number) for number in (3, 4)]
while True:
    for listener in select.select(listeners, [], [])[0]:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nfrom a socket of the host')
        connection.close()
"""


def shell(script: str) -> str:
    """Return a command that runs a script, as YAML."""
    return json.dumps([BOX, "sh", "-c", script])


@pytest.fixture(scope="module")
def wanted(host: Host, declaration: str, registry: Registry, lab: Lab) -> str:
    """Return a declaration of workloads that wait for each other, for a time, for a connection."""
    registry.push(f"oci-archive:{lab.image('py')}", "py:1")
    profile = json.loads(host.text("cat", "/usr/share/containers/seccomp.json"))
    for rule in profile["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in ("mkdir", "mkdirat")]
    own = json.dumps(profile).replace("'", "''")
    python = f"image: {registry.guest_address}/py:1\n    network: none"
    box = "image: localhost/box:1\n    network: none"
    return f"""{declaration}\
registries: {{"{registry.guest_address}": {{insecure: true}}}}
workloads:
  web:
    {box}
    command: {shell(f"echo web is up; {FOREVER}")}
    depends_on: {{migrate: {{condition: completed}}, db: {{}}}}
  migrate:
    {box}
    type: job
    command: {shell(f"{BOX} sleep 2; echo migrated")}
    depends_on: {{db: {{condition: healthy}}}}
  db:
    {box}
    command: {shell(f"{BOX} sleep 3; {BOX} touch /tmp/ready; echo db is ready; {FOREVER}")}
    healthcheck: {{exec: [{BOX}, test, -f, /tmp/ready], interval: 1s, start_period: 1m}}
  shop:
    {box}
    command: {shell(FOREVER)}
    depends_on: {{db: {{requires: true}}}}
  late:
    {box}
    command: {shell(FOREVER)}
    secrets: [late]
    env_secrets: {{LATE: late}}
    autostart: false
  hopeful:
    {box}
    command: {shell(FOREVER)}
    autostart: false
    depends_on: {{late: {{requires: true}}}}
  sick:
    {box}
    command: {shell(FOREVER)}
    healthcheck: {{exec: [{BOX}, test, -f, /tmp/ready], interval: 1s, start_period: 1h}}
    autostart: false
  patient:
    {box}
    command: {shell(FOREVER)}
    autostart: false
    depends_on: {{sick: {{condition: healthy}}}}
  failing:
    {box}
    command: {shell(f"{BOX} sleep 1; exit 3")}
    restart: on-failure:2
  tick:
    {box}
    type: job
    schedule: "*:*:0/5"
    restart: on-failure:1
    command: {shell("echo tick")}
  notifier:
    {python}
    command: [/usr/bin/python3, -I, -S, -c, {json.dumps(NOTIFIER)}]
    notify: true
    user: 1000:1000
  listener:
    {python}
    command: [/usr/bin/python3, -I, -S, -c, {json.dumps(SERVER)}]
    init: false
    sockets: [8080, "[::1]:8081"]
  chatty:
    {box}
    command: {shell(f"for n in $({BOX} seq 500); do echo line $n; done; {FOREVER}")}
    logging: {{rate_limit: 20, rate_interval: 10m}}
  confined:
    {box}
    command: {shell(FOREVER)}
    cap_drop: [ALL]
    seccomp: without-mkdir
    devices: [/dev/kvm, "/dev/hwrng:/dev/noise:r", "/dev/serial/by-id/usb-a_b-if00:/dev/stick"]
    user: 1000:1000
secrets: {{late: {{}}}}
configs:
  without-mkdir: {{content: '{own}'}}
"""


@pytest.fixture(scope="module", autouse=True)
def applied(host: Host, wanted: str) -> None:
    """Bring them up, with a link as udev makes it for a serial port on USB."""
    host.shell("mkdir -p /dev/serial/by-id && ln -sfn ../../ttyS1 /dev/serial/by-id/usb-a_b-if00")
    host.apply(wanted, seconds=600)


def show(host: Host, unit: str, *properties: str) -> dict[str, str]:
    """Return properties of a unit."""
    said = host.text("systemctl", "show", unit, "-p", ",".join(properties))
    return dict(line.split("=", 1) for line in said.splitlines())


def logs(host: Host, *names: str) -> list[str]:
    """Return what workloads printed, in order."""
    wanted = [word for name in names for word in ("-t", name)]
    return host.text("journalctl", "-b", "-o", "cat", "--no-pager", *wanted).splitlines()


def test_a_dependency_is_healthy_and_a_job_completed_before_what_needs_them_starts(host: Host) -> None:
    host.wait_for("web is up", lambda: "web is up" in logs(host, "web"), READY_SECONDS)
    said = [line for line in logs(host, "db", "migrate", "web") if line in ("db is ready", "migrated", "web is up")]
    assert said == ["db is ready", "migrated", "web is up"]
    assert show(host, "workload-migrate.service", "ActiveState", "SubState") == {
        "ActiveState": "active",
        "SubState": "exited",
    }


def test_a_restarted_dependency_leaves_what_needed_it_running(host: Host) -> None:
    before = show(host, "workload-web.service", "InvocationID", "ActiveState")
    host.text("hostctl", "restart", "db")
    assert show(host, "workload-web.service", "InvocationID", "ActiveState") == before
    assert before["ActiveState"] == "active"


def test_one_that_becomes_unhealthy_is_restarted(host: Host) -> None:
    host.wait_for("it is healthy", lambda: "(healthy)" in host.text("hostctl", "ps", "-f", "name=db"), READY_SECONDS)
    before = show(host, "workload-db.service", "InvocationID")
    host.text("hostctl", "exec", "db", "--", BOX, "rm", "/tmp/ready")
    host.wait_for("another runs", lambda: show(host, "workload-db.service", "InvocationID") != before, READY_SECONDS)
    host.wait_for("it is healthy", lambda: logs(host, "db").count("db is ready") == 3, READY_SECONDS)


def test_a_completed_job_runs_again_and_what_waited_for_it_runs_on(host: Host) -> None:
    before = show(host, "workload-web.service", "InvocationID")
    assert "hostctl wait migrate" in host.run("hostctl", "start", "migrate").stderr.decode()
    assert host.text("hostctl", "wait", "migrate") == "0"
    assert logs(host, "migrate").count("migrated") == 2
    assert show(host, "workload-web.service", "InvocationID") == before


def test_a_job_that_is_changed_or_run_again_leaves_what_waited_for_it_running(host: Host, wanted: str) -> None:
    """The web server runs on while the job that it once waited for is another one; also when that one fails."""
    before = show(host, "workload-web.service", "InvocationID", "ActiveState")
    assert before["ActiveState"] == "active"
    host.text("hostctl", "restart", "migrate")
    host.apply(wanted.replace("echo migrated", "echo migrated anew"), seconds=300)
    host.wait_for("the new job has run", lambda: "migrated anew" in logs(host, "migrate"), READY_SECONDS)
    host.apply(wanted.replace("echo migrated", "exit 3"), seconds=300)
    failed = {"ActiveState": "failed"}
    host.wait_for("it failed", lambda: show(host, "workload-migrate.service", "ActiveState") == failed, READY_SECONDS)
    assert show(host, "workload-web.service", "InvocationID", "ActiveState") == before
    # Only who starts anew waits for it again.
    assert host.run("hostctl", "restart", "web", check=False).status != 0
    assert show(host, "workload-web.service", "ActiveState") == {"ActiveState": "inactive"}
    host.apply(wanted, seconds=300)
    host.text("hostctl", "start", "web")
    assert show(host, "workload-web.service", "ActiveState") == {"ActiveState": "active"}


def process(host: Host, name: str) -> int:
    """Return the first process of a workload that runs; 0 if it does not."""
    unit = show(host, f"workload-{name}.service", "MainPID", "ActiveState")
    runs = unit["ActiveState"] == "active" and name in host.text("crun", "list", "-q").split()
    return int(unit["MainPID"]) if runs else 0


def test_what_requires_another_goes_and_comes_with_it_and_what_only_started_after_it_runs_on(
    host: Host, wanted: str
) -> None:
    before, web = process(host, "shop"), process(host, "web")
    assert before and web
    host.text("hostctl", "restart", "db")
    restarted = process(host, "shop")
    assert restarted not in (0, before)
    host.text("hostctl", "kill", "db")
    host.wait_for("another runs", lambda: process(host, "shop") not in (0, restarted), READY_SECONDS)
    host.text("hostctl", "stop", "db")
    assert process(host, "shop") == process(host, "db") == 0
    host.fails("systemctl", "start", "workload-shop.service")  # past the agent, which would start both
    host.text("hostctl", "start", "db")
    assert process(host, "shop") and process(host, "db")
    host.text("hostctl", "stop", "--time", "20", "db")
    assert process(host, "shop") == 0
    host.text("hostctl", "start", "shop")
    again = process(host, "shop")
    assert again and process(host, "db")
    changed = wanted.replace("sleep 3; ", "sleep 2; ")
    assert host.text("hostctl", "plan", "-", stdin=changed).splitlines()[-1] == "~ workload shop: it requires db"
    host.apply(changed, seconds=300)
    assert process(host, "shop") not in (0, again)
    assert process(host, "web") == web
    host.text("hostctl", "stop", "shop")
    host.apply(wanted, seconds=300)  # db is another one once more
    assert process(host, "shop") == 0
    host.text("hostctl", "start", "shop")
    assert process(host, "shop")


def test_what_requires_one_that_cannot_start_waits_for_it_and_that_is_tried_less_and_less_often(host: Host) -> None:
    """One lacks its secret. The pauses between its tries grow until that is there; then both run."""
    unit = "workload-late.service"

    def said() -> list[tuple[float, str]]:
        rows = host.text("journalctl", "-b", "-u", unit, "-o", "short-monotonic", "--no-pager").splitlines()
        return [(float(row[1 : row.index("]")]), row) for row in rows if row.startswith("[")]

    def pauses() -> list[float]:
        found, failed = [], 0.0
        for at, row in said():
            failed = at if "Failed with result" in row else failed
            if "Scheduled restart job, " in row:  # not one that somebody asked for, which waits for nothing
                found.append(at - failed)
        return found

    host.fails("hostctl", "start", "hopeful")
    host.wait_for("it was tried", lambda: len(pauses()) >= TRIES, READY_SECONDS)
    grown = pauses()[:TRIES]
    assert 0.4 < grown[0] < 2.5, grown
    # Each is nearly twice the one before, and may be late by a second where the machine is busy.
    assert all(later > 1.5 * sooner for sooner, later in zip(grown, grown[2:], strict=False)), grown
    assert "cannot open '/run/hostctl/pids/late'" in host.text("hostctl", "logs", "hopeful")
    assert process(host, "hopeful") == 0
    host.text("hostctl", "secret", "set", "late", stdin="now")
    host.wait_for("both run", lambda: process(host, "late") > 0 and process(host, "hopeful") > 0, READY_SECONDS)


def test_what_waits_for_health_goes_on_waiting_while_that_is_stopped_and_changed(host: Host, wanted: str) -> None:
    def waits() -> bool:
        wait, who = (show(host, f"workload-{name}.service", "ActiveState") for name in ("sick.healthy", "patient"))
        return (wait["ActiveState"], who["ActiveState"]) == ("activating", "inactive")

    host.text("systemctl", "start", "--no-block", "workload-patient.service")  # which starts the other, too
    host.wait_for("sick runs", lambda: process(host, "sick") > 0, READY_SECONDS)
    host.wait_for("it is waited for", waits, READY_SECONDS)
    host.text("hostctl", "stop", "sick")
    assert process(host, "sick") == 0
    assert waits()
    host.text("hostctl", "start", "sick")
    host.apply(wanted.replace("start_period: 1h", "start_period: 2h"), seconds=300)
    assert process(host, "sick")
    assert waits()
    host.text("hostctl", "exec", "sick", "--", BOX, "touch", "/tmp/ready")
    host.wait_for("who waited runs", lambda: process(host, "patient") > 0, READY_SECONDS)
    assert show(host, "workload-sick.healthy.service", "ActiveState") == {"ActiveState": "inactive"}
    host.text("hostctl", "restart", "patient")
    assert process(host, "patient")
    host.apply(wanted, seconds=300)


def test_restarts_have_an_end_where_one_is_declared_and_begin_anew_when_somebody_starts_it(host: Host) -> None:
    unit = "workload-failing.service"
    host.wait_for("it has failed", lambda: show(host, unit, "ActiveState")["ActiveState"] == "failed", READY_SECONDS)
    assert show(host, unit, "ExecMainStatus", "Result") == {"ExecMainStatus": "3", "Result": "exit-code"}
    runs = host.text("journalctl", "-b", "-u", unit, "-o", "cat", "--no-pager").count("status=3")
    assert runs == 3
    host.run("hostctl", "start", "failing", check=False)
    host.wait_for(
        "it was tried again",
        lambda: (
            host.text("journalctl", "-b", "-u", unit, "-o", "cat", "--no-pager").count("status=3") == 6
            and show(host, unit, "ActiveState")["ActiveState"] == "failed"
        ),
        READY_SECONDS,
    )


def test_a_job_runs_by_the_calendar(host: Host) -> None:
    host.wait_for("it ran twice", lambda: logs(host, "tick").count("tick") >= 2, READY_SECONDS)
    times = host.text("journalctl", "-b", "-t", "tick", "-g", "^tick$", "-o", "short-unix", "--no-pager").splitlines()
    first, second = (float(line.split()[0]) for line in times[:2])
    assert 3 < second - first < 12 or len(times) > 2


def test_runs_by_the_calendar_do_not_use_up_a_limit_of_restarts(host: Host) -> None:
    """Two starts in ten minutes are what its limit allows, if none of them ends well."""
    host.wait_for("it ran five times", lambda: logs(host, "tick").count("tick") >= 5, READY_SECONDS)
    assert show(host, "workload-tick.service", "Result") == {"Result": "success"}


def test_a_start_ends_when_the_workload_says_that_it_is_ready(host: Host) -> None:
    unit = "workload-notifier.service"
    host.wait_for("it is ready", lambda: show(host, unit, "ActiveState")["ActiveState"] == "active", READY_SECONDS)
    times = show(host, unit, "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    took = int(times["ActiveEnterTimestampMonotonic"]) - int(times["InactiveExitTimestampMonotonic"])
    assert took > NOTIFY_AFTER * 1e6


def test_the_first_connection_starts_a_workload_that_has_no_network_by_ipv6_too(host: Host) -> None:
    unit = "workload-listener.service"
    assert show(host, unit, "ActiveState")["ActiveState"] == "inactive"
    ask = "import urllib.request as r; print(r.urlopen('http://[::1]:8081/').read().decode())"
    assert host.text("python3", "-c", ask) == "from a socket of the host"
    assert show(host, unit, "ActiveState")["ActiveState"] == "active"
    host.wait_for("it answers", lambda: host.get() == "from a socket of the host", READY_SECONDS)
    assert show(host, unit, "ActiveState")["ActiveState"] == "active"


def test_what_is_too_much_for_the_journal_is_dropped(host: Host) -> None:
    unit = "workload-chatty.service"
    host.wait_for("it has written", lambda: len(logs(host, "chatty")) >= 20, READY_SECONDS)
    # journald lets through more where its disk has room, a few times as much (journald.conf(5), RateLimitBurst=).
    assert 20 <= len([line for line in logs(host, "chatty") if line.startswith("line ")]) <= 20 * 8
    assert show(host, unit, "ActiveState")["ActiveState"] == "active"


def test_a_profile_of_the_declarations_own_holds_and_no_capability_is_left(host: Host) -> None:
    script = f"{BOX} mkdir /tmp/new || {BOX} touch /tmp/new-file"
    said = host.run("hostctl", "exec", "confined", "--", BOX, "sh", "-c", script, check=False)
    assert said.status == 0
    assert b"can't create directory '/tmp/new'" in said.stderr
    assert host.run("hostctl", "exec", "db", "--", BOX, "mkdir", "/tmp/new", check=False).status == 0
    status = host.text("hostctl", "exec", "--user", "0", "confined", "--", BOX, "cat", "/proc/self/status")
    sets = {line.split()[1] for line in status.splitlines() if line.startswith("Cap")}
    assert sets == {"0" * 16}


def test_a_declared_device_can_be_opened_and_no_other(host: Host) -> None:
    # Its group is one of the host's; what opens it is the entry for the workload's own user.
    assert host.text("stat", "-c", "%U %G %A", "/dev/kvm").startswith("root kvm crw-rw")
    host.text("hostctl", "exec", "confined", "--", BOX, "sh", "-c", ": <> /dev/kvm")
    host.text("hostctl", "exec", "confined", "--", BOX, "sh", "-c", ": < /dev/noise")
    host.fails("hostctl", "exec", "confined", "--", BOX, "sh", "-c", ": > /dev/noise")
    # Nothing is behind this port, so it may not work; but it may be opened.
    opened = host.run("hostctl", "exec", "confined", "--", BOX, "sh", "-c", ": <> /dev/stick", check=False)
    assert b"denied" not in opened.stderr
    assert b"not permitted" not in opened.stderr
    script = f"{BOX} mknod /tmp/vda b 254 0 && : < /tmp/vda"
    assert "not permitted" in host.fails("hostctl", "exec", "--user", "0", "db", "--", BOX, "sh", "-c", script)
    assert "kvm" not in host.text("hostctl", "exec", "db", "--", BOX, "ls", "/dev").split()
