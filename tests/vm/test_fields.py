"""What each field of a workload does, read from inside the container or from the kernel, never from our own files."""

import json
import time

import pytest
from hostctl_lab.host import Host

BOX = "/usr/bin/busybox"
SLEEP = f"[{BOX}, sleep, '1000000']"
IN_FILE = "a token that nobody may read"
IN_ENVIRONMENT = "a password that nobody may read"
MIB = 1 << 20
IN_MEMORY = "/run/hostctl/workloads/data"
READY_SECONDS = 60.0


@pytest.fixture(scope="module")
def wanted(declaration: str) -> str:
    """Return a declaration of few workloads with many fields."""
    return f"""{declaration}\
workloads:
  full:
    image: localhost/box:1
    command: {SLEEP}
    init: false
    working_dir: /srv
    hostname: db.example
    timezone: Asia/Tokyo
    labels: {{team: shop, run.oci.handler: krun}}
    memory: 64M
    memory_high: 48M
    memory_reservation: 8M
    memory_swap: 16M
    cpus: 0.5
    cpu_weight: 50
    cpuset: "1"
    pids: 60
    io: {{weight: 60, read_bps: {{/dev/vda: 4M}}, write_iops: {{/dev/vda: 100}}}}
    ulimits: {{nofile: 512:1024, memlock: unlimited}}
    oom_score_adj: 500
    sysctls: {{net.core.somaxconn: 77, kernel.shmmni: 123, fs.mqueue.queues_max: 9}}
    shm_size: 1M
    tmpfs: ["/cache:size=2M,mode=0750", "/run/scripts:exec"]
  polite:
    image: localhost/box:1
    command: [{BOX}, sh, -c, "trap 'echo asked politely; exit 0' INT; while :; do {BOX} sleep 1; done"]
    stop_signal: SIGINT
    network: none
    tmpfs: [/etc]
  stubborn:
    image: localhost/box:1
    command: [{BOX}, sh, -c, "trap '' TERM; while :; do {BOX} sleep 1; done"]
    stop_grace_period: 3s
    network: none
    image_volumes: {{/etc: localhost/box:1}}
  kept-out:
    image: localhost/box:1
    command: [{BOX}, sh, -c, "{BOX} cat /srv/index.html; {BOX} sleep 1000000"]
    network: none
    apparmor: no-page
    healthcheck: {{exec: [{BOX}, grep, -q, "no-page (enforce)", /proc/self/attr/current], interval: 10s}}
  locked:
    image: localhost/box:1
    command: {SLEEP}
    capabilities: [CAP_SYS_ADMIN]
    apparmor: hostctl-default
  data:
    image: localhost/box:1
    command: {SLEEP}
    user: 1000:1000
    network: none
    read_only: true
    configs: ["site:/etc/app/site.conf"]
    env_from: [variables]
    env_secrets: {{PASSWORD: password}}
    healthcheck: {{exec: [{BOX}, sh, -c, 'test "$PASSWORD" != ""'], interval: 2s, start_period: 1s, retries: 1}}
    secrets: [token]
    image_volumes: {{/other: localhost/box:1}}
    volumes: ["content:/data", "/var/lib/hostctl/binds/in:/in", "settings:/etc:ro"]
  outside:
    image: localhost/box:1
    command: [{BOX}]
    args: [sleep, '1000000']
    autostart: false
    network: host
    volumes: ["/var/lib/hostctl/binds/out:/out:rw"]
    io: {{read_iops: {{/dev/vda: 200}}, write_bps: {{/dev/vda: 8M}}}}
configs:
  site: {{content: "listen = 80\\n"}}
  variables: {{content: "GREETING=hello you\\n"}}
secrets: {{token: {{}}, password: {{}}}}
volumes: {{content: {{}}, settings: {{}}}}
"""


@pytest.fixture(scope="module", autouse=True)
def applied(host: Host, wanted: str) -> None:
    """Bring the workloads up."""
    host.text("hostctl", "secret", "set", "token", stdin=IN_FILE)
    host.text("hostctl", "secret", "set", "password", stdin=f"{IN_ENVIRONMENT}\n")
    host.apply(wanted, seconds=600)
    host.wait_for("they run", lambda: len(host.text("crun", "list", "-q").split()) == 6, READY_SECONDS)


def inside(host: Host, *argv: str, workload: str = "full") -> str:
    """Return what a program of busybox prints inside a workload."""
    return host.text("hostctl", "exec", workload, "--", BOX, *argv)


def group(host: Host, *names: str, workload: str = "full") -> list[str]:
    """Return files of a workload's own cgroup as it sees them."""
    return inside(host, "cat", *(f"/sys/fs/cgroup/{name}" for name in names), workload=workload).splitlines()


def test_name_folder_and_process_1(host: Host) -> None:
    assert inside(host, "hostname") == "db.example"
    assert inside(host, "cat", "/etc/hostname") == "db.example"
    assert inside(host, "readlink", "/proc/1/cwd") == "/srv"
    assert inside(host, "readlink", "/proc/1/exe") == BOX
    assert inside(host, "readlink", "/proc/1/exe", workload="polite").endswith("/init")


def test_the_time_zone_is_known_by_name_and_as_the_local_time_though_the_image_has_no_database(host: Host) -> None:
    assert inside(host, "date", "+%z") == "+0900"
    assert inside(host, "env", "-u", "TZ", BOX, "date", "+%Z") == "JST"
    assert inside(host, "date", "+%z", workload="polite") == "+0000"


def test_labels_are_shown_and_never_act(host: Host) -> None:
    config = json.loads(host.text("crun", "state", "full"))
    assert config["annotations"] == {"org.hostctl.label.team": "shop", "org.hostctl.label.run.oci.handler": "krun"}


def test_memory_processors_and_processes(host: Host) -> None:
    names = ("memory.max", "memory.high", "memory.low", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")
    assert group(host, *names) == [
        str(64 * MIB),
        str(48 * MIB),
        str(8 * MIB),
        str(16 * MIB),
        "50000 100000",
        "50",
        "60",
    ]
    assert group(host, "cpuset.cpus.effective") == ["1"]
    assert "Cpus_allowed_list:\t1" in inside(host, "cat", "/proc/1/status").splitlines()
    assert int(host.text("cat", "/sys/fs/cgroup/system.slice/memory.low")) == 8 * MIB


def test_disks(host: Host) -> None:
    limits = group(host, "io.max")
    assert any("rbps=4194304" in line and "wiops=100" in line for line in limits), limits
    assert "default 60" in group(host, "io.weight")


def test_limits_of_processes(host: Host) -> None:
    for path in ("/proc/1/limits", "/proc/self/limits"):
        limits = [line.split() for line in inside(host, "cat", path).splitlines()]
        assert ["Max", "open", "files", "512", "1024", "files"] in limits
        assert ["Max", "locked", "memory", "unlimited", "unlimited", "bytes"] in limits
        assert ["Max", "core", "file", "size", "0", "0", "bytes"] in limits
    assert inside(host, "cat", "/proc/1/oom_score_adj") == "500"


def test_kernel_settings_are_its_own(host: Host) -> None:
    paths = ("net/core/somaxconn", "kernel/shmmni", "fs/mqueue/queues_max")
    assert inside(host, "cat", *(f"/proc/sys/{path}" for path in paths)).split() == ["77", "123", "9"]
    assert not {"77", "123", "9"} & set(host.text("cat", *(f"/proc/sys/{path}" for path in paths)).split())


def test_an_apparmor_profile_of_the_release_confines_whatever_runs_in_a_workload(host: Host) -> None:
    for path in ("/proc/1/attr/current", "/proc/self/attr/current"):
        assert inside(host, "cat", path, workload="kept-out") == "no-page (enforce)"
        assert inside(host, "cat", path, workload="polite") == "unconfined"
    assert "a page from inside" in inside(host, "cat", "/srv/index.html", workload="polite")
    denied = host.fails("hostctl", "exec", "kept-out", "--", BOX, "cat", "/srv/index.html")
    assert "Permission denied" in denied
    assert "Permission denied" in host.text("hostctl", "logs", "kept-out")
    host.wait_for("its check is confined", lambda: "healthy" in health(host, "kept-out"), READY_SECONDS)


def health(host: Host, workload: str) -> list[str]:
    """Return what is said of the health of a workload."""
    return [row["health"] for row in json.loads(host.text("hostctl", "ps", "--json")) if row["name"] == workload]


def test_the_profile_of_the_examples_lets_the_host_in_and_the_workload_change_nothing(host: Host) -> None:
    assert inside(host, "cat", "/proc/1/attr/current", workload="locked") == "hostctl-default (enforce)"
    mount = f"{BOX} mount -t tmpfs none /srv || exit 1"  # its own status, 255, would stand for ssh's
    refused = host.fails("hostctl", "exec", "locked", "--", BOX, "sh", "-c", mount)
    assert "failed: Permission denied" in refused  # not EPERM, which is what missing capabilities and seccomp give
    host.text("hostctl", "exec", "--user", "0", "locked", "--", BOX, "touch", "/srv/new")
    host.text("systemctl", "restart", "workload-locked.service")
    assert host.text("systemctl", "show", "-P", "Result", "workload-locked.service") == "success"


def test_profiles_are_loaded_once_and_only_those_of_the_release_can_be_named(host: Host, wanted: str) -> None:
    assert "apparmor" in host.text("cat", "/sys/kernel/security/lsm").split(",")
    assert host.text("systemctl", "is-active", "hostctl-apparmor.service") == "active"
    loaded = host.text("cat", "/sys/kernel/security/apparmor/profiles").splitlines()
    assert sorted(loaded) == ["hostctl-default (enforce)", "no-page (enforce)"]
    load = "dd if=/usr/share/hostctl/apparmor/no-page of=/sys/kernel/security/apparmor/.replace bs=4M conv=notrunc"
    assert "Permission denied" in host.fails("sh", "-c", load)
    host.fails("sh", "-c", "echo 0 > /sys/module/apparmor/parameters/lock_policy")
    host.fails("sh", "-c", "printf no-page > /sys/kernel/security/apparmor/.remove")
    said = host.fails("hostctl", "apply", "-", stdin=wanted.replace("apparmor: no-page", "apparmor: unknown"))
    assert "this release has no AppArmor profile unknown" in said
    assert "it has hostctl-default, no-page" in said


def test_memory_that_is_mounted(host: Host) -> None:
    sizes = {
        line.split()[5]: line.split()[1] for line in inside(host, "df", "-k", "/dev/shm", "/cache").splitlines()[1:]
    }
    assert sizes == {"/dev/shm": "1024", "/cache": "2048"}
    assert inside(host, "stat", "-c", "%a %u", "/cache") == "750 0"
    script = f"echo '#!{BOX} true' > %s/x; {BOX} chmod 755 %s/x; %s/x"
    inside(host, "sh", "-c", script.replace("%s", "/run/scripts"))
    denied = host.fails("hostctl", "exec", "full", "--", BOX, "sh", "-c", script.replace("%s", "/cache"))
    assert "Permission denied" in denied


@pytest.mark.parametrize("name", ["polite", "stubborn", "data"])
def test_its_own_name_and_name_server_lie_over_what_is_mounted_at_etc(host: Host, name: str) -> None:
    assert inside(host, "cat", "/etc/hostname", workload=name) == name
    assert "localhost" in inside(host, "cat", "/etc/hosts", workload=name)
    lines = [line.split() for line in inside(host, "cat", "/proc/mounts", workload=name).splitlines()]
    options = {line[1]: line[3].split(",") for line in lines}
    assert all("ro" in options[f"/etc/{file}"] for file in ("hostname", "hosts", "resolv.conf"))
    host.fails("hostctl", "exec", "--user", "0", name, "--", BOX, "sh", "-c", "echo x > /etc/hosts")
    assert "/hosts " not in host.text("cat", "/proc/self/mountinfo")


def test_it_is_stopped_as_declared(host: Host) -> None:
    host.text("systemctl", "stop", "workload-polite.service")
    assert "asked politely" in host.text("hostctl", "logs", "polite")
    assert host.text("systemctl", "show", "workload-polite.service", "-p", "Result") == "Result=success"
    before = time.monotonic()
    host.text("systemctl", "stop", "workload-stubborn.service")
    assert 3 <= time.monotonic() - before < 25
    assert host.text("systemctl", "show", "workload-stubborn.service", "-p", "Result") == "Result=timeout"


def test_a_config_is_a_file_that_can_only_be_read(host: Host) -> None:
    assert inside(host, "cat", "/etc/app/site.conf", workload="data") == "listen = 80"
    assert inside(host, "stat", "-c", "%a %u %g", "/etc/app/site.conf", workload="data") == "644 0 0"
    script = "echo x > /etc/app/site.conf"
    refused = host.fails("hostctl", "exec", "--user", "0", "data", "--", BOX, "sh", "-c", script)
    assert "Read-only file system" in refused


def test_a_secret_is_its_users_alone_and_nowhere_on_the_disk(host: Host, wanted: str) -> None:
    assert inside(host, "stat", "-c", "%a %u %g", "/run/secrets/token", workload="data") == "400 1000 1000"
    assert inside(host, "cat", "/run/secrets/token", workload="data") == IN_FILE
    host.fails("hostctl", "exec", "--user", "2000", "data", "--", BOX, "cat", "/run/secrets/token")
    host.run("sync")
    for value in (IN_FILE, IN_ENVIRONMENT):
        assert host.run("grep", "-rqF", value, "/var/lib", "/etc", check=False).status == 1
        assert value not in wanted
    assert "token" not in inside(host, "ls", "/run")  # of another workload
    host.text("hostctl", "secret", "set", "token", "--restart", stdin="another")
    assert inside(host, "cat", "/run/secrets/token", workload="data") == "another"
    rows = json.loads(host.text("hostctl", "secret", "ls", "--json"))["secrets"]
    assert [(row["name"], row["workloads"]) for row in rows] == [("password", ["data"]), ("token", ["data"])]


def test_variables_come_from_configs_and_from_secrets(host: Host) -> None:
    variables = inside(host, "cat", "/proc/1/environ", workload="data").split("\0")
    assert {"GREETING=hello you", f"PASSWORD={IN_ENVIRONMENT}", "COLOUR=blue"} <= set(variables)
    host.text("hostctl", "secret", "set", "password", stdin="waiting")
    assert f"PASSWORD={IN_ENVIRONMENT}" in inside(host, "env", workload="data").splitlines()
    host.text("hostctl", "restart", "data")
    assert "PASSWORD=waiting" in inside(host, "cat", "/proc/1/environ", workload="data").split("\0")
    host.text("hostctl", "secret", "set", "password", "--restart", stdin="changed")
    assert "PASSWORD=changed" in inside(host, "cat", "/proc/1/environ", workload="data").split("\0")
    assert "PASSWORD=changed" in inside(host, "env", workload="data").splitlines()
    host.wait_for("its check has it too", lambda: "healthy" in health(host, "data"), READY_SECONDS)
    files = host.text("stat", "-c", "%n %a %U", *(f"{IN_MEMORY}/{name}.json" for name in ("config", "health-process")))
    assert [line.partition(" ")[2] for line in files.splitlines()] == ["600 root"] * 2
    assert host.run("journalctl", "-b", "--grep", "changed", "-t", "data", check=False).status == 1


def test_volumes_show_their_owners_as_the_container_has_them(host: Host) -> None:
    inside(host, "touch", "/data/mine", workload="data")
    assert host.text("stat", "-c", "%u %g", "/var/lib/hostctl/volumes/content/mine") == "1000 1000"
    host.shell("echo from outside > /var/lib/hostctl/binds/in/note")
    assert inside(host, "cat", "/in/note", workload="data") == "from outside"
    refused = host.fails("hostctl", "exec", "--user", "0", "data", "--", BOX, "touch", "/in/new")
    assert "Read-only file system" in refused
    refused = host.fails("hostctl", "exec", "--user", "0", "data", "--", BOX, "touch", "/new")
    assert "Read-only file system" in refused


def test_one_that_is_started_by_hand_is_in_the_hosts_network_without_rights_and_writes_where_it_may(host: Host) -> None:
    assert "outside" not in host.text("crun", "list", "-q").split()
    host.text("hostctl", "start", "outside")
    assert inside(host, "cat", "/proc/1/cmdline", workload="outside").split("\0")[-3:-1] == ["sleep", "1000000"]
    process = host.text("hostctl", "inspect", "-f", "{{.State.Pid}}", "outside")
    assert host.text("readlink", f"/proc/{process}/ns/net") == host.text("readlink", "/proc/1/ns/net")
    assert host.text("stat", "-f", "-c", "%T", "/sys/fs/cgroup") == "cgroup2fs"
    assert (
        host.run("mountpoint", "/sys/firmware", check=False).status != 0
    )  # what it may not see is covered there alone
    low = host.fails("hostctl", "exec", "outside", "--", BOX, "nc", "-l", "-p", "81")
    assert "Permission denied" in low
    host.fails("hostctl", "exec", "outside", "--", BOX, "ip", "link", "set", "lo", "down")
    inside(host, "touch", "/out/mine", workload="outside")
    assert host.text("stat", "-c", "%u", "/var/lib/hostctl/binds/out/mine") == "0"
    limits = group(host, "io.max", workload="outside")
    assert any("wbps=8388608" in line and "riops=200" in line for line in limits), limits


def test_another_image_is_shown_with_its_owners_and_cannot_be_written(host: Host) -> None:
    assert inside(host, "stat", "-c", "%u %a", "/other/usr/bin/busybox", workload="data") == "0 755"
    assert host.text("hostctl", "exec", "data", "--", "/other/usr/bin/busybox", "echo", "runs") == "runs"
    refused = host.fails("hostctl", "exec", "--user", "0", "data", "--", BOX, "touch", "/other/new")
    assert "Read-only file system" in refused
