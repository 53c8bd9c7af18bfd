"""The units of a workload, and that hostile text from a declaration or an image stays text."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from hostctl.config.values import (
    AppArmorProfile,
    ByteSize,
    Cpus,
    CpuSet,
    DeviceMount,
    DevicePath,
    Duration,
    ImageReference,
    ListenAddress,
    Name,
    RestartPolicy,
    Schedule,
    Signal,
    TcpAddress,
    TimeZone,
    Ulimit,
    UlimitName,
    VolumeMount,
    WorkloadUser,
)
from hostctl.config.workload import Dependency, IoLimits, Logging, Workload, WorkloadHealth
from hostctl.image.oci import ImageConfig
from hostctl.image.store import StoredImage
from hostctl.workload import instance, units
from hostctl.workload.spec import Network, WorkloadError, WorkloadSpec

LOW, HIGH = "a" * 64, "b" * 64
SECRET_ENV = Path("/usr/lib/python3/dist-packages/hostctl/workload/secret_env.py")
LINKS = Path("/usr/lib/python3/dist-packages/hostctl/workload/device_links.py")
PROBE = Path("/usr/lib/python3/dist-packages/hostctl/workload/probe.py")


def spec(image: ImageConfig | None = None, name: str = "my-web", **fields: Any) -> WorkloadSpec:  # noqa: ANN401
    workload = Workload(image=ImageReference.parse("registry.example/web:1"), **fields)
    stored = StoredImage(
        reference="registry.example/web:1",
        digest="sha256:" + "1" * 64,
        config=image or ImageConfig(diff_ids=(), cmd=("/bin/web",)),
        layers=tuple(Path(f"/var/lib/hostctl/images/layers/sha256-{layer}.erofs") for layer in (LOW, HIGH)),
        bytes=1,
    )
    network = Network(addresses=("10.88.0.2",), name_servers=("10.88.0.1",)) if workload.network == "private" else None
    return WorkloadSpec(name=name, workload=workload, image=stored, range_number=1, network=network)


def service(**fields: Any) -> list[str]:  # noqa: ANN401
    made = units.render(spec(**fields), PROBE, SECRET_ENV, LINKS)
    return made["systemd/system/workload-my-web.service"].splitlines()


def test_starting_runs_no_code_of_ours_and_nothing_stays() -> None:
    lines = service()
    programs = {re.sub(r"^[-]", "", line.partition("=")[2]).split()[0] for line in lines if line.startswith("Exec")}
    assert {Path(program).name for program in programs} == {"crun", "umount", "rm", "systemd-tmpfiles", "mount"}
    assert "Type=forking" in lines
    assert "PIDFile=/run/hostctl/pids/my-web" in lines


def test_a_description_says_what_is_a_job() -> None:
    assert "Description=Workload my-web" in service()
    assert "Description=Job my-web" in service(type="job")
    assert "Description=Scheduled job my-web" in service(type="job", schedule=Schedule("daily"))


def test_templates_are_compiled_once_for_all_workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, compile_one = list[str](), Environment.compile

    def counting(self: Environment, source: str, name: str, *rest: Any) -> Any:  # noqa: ANN401 - jinja2's own
        compiled.append(name)
        return compile_one(self, source, name, *rest)

    units.environment.cache_clear()
    monkeypatch.setattr(Environment, "compile", counting)
    for name in ("one", "two"):
        units.render(spec(name=name), PROBE, SECRET_ENV, LINKS)
    assert sorted(compiled) == ["fresh.conf.j2", "workload.service.j2"]


def test_a_start_is_one_program_but_where_volumes_and_devices_have_to_be_there() -> None:
    for fields in ({}, {"read_only": True}):
        lines = [line for line in service(**fields) if line.startswith(("ExecStart=", "ExecStartPre="))]
        assert [line.split()[0] for line in lines] == ["ExecStart=/usr/bin/crun"]
    volume = VolumeMount.parse("data:/data")
    made = units.render(spec(read_only=True, volumes=(volume,)), PROBE, SECRET_ENV, LINKS)
    assert "ExecStartPre=/usr/bin/systemd-tmpfiles" in made["systemd/system/workload-my-web.service"]
    assert "hostctl/workloads/my-web.conf" not in units.render(spec(read_only=True), PROBE, SECRET_ENV, LINKS)


def test_who_is_not_tried_for_ever_waits_for_a_network_that_may_be_late() -> None:
    wait = f"ExecStartPre=/usr/bin/python3 -I -S {PROBE} --there /run/netns/workload-my-web"
    late = Network(addresses=("192.0.2.9",), name_servers=(), may_be_late=True)
    for fields, waits in (
        ({}, False),
        ({"restart": RestartPolicy("on-failure")}, False),
        ({"restart": RestartPolicy("on-failure:3")}, True),
        ({"restart": RestartPolicy("no")}, True),
        ({"type": "job"}, True),
    ):
        made = units.render(dataclasses.replace(spec(**fields), network=late), PROBE, SECRET_ENV, LINKS)
        assert (wait in made["systemd/system/workload-my-web.service"]) is waits, fields
        assert not any(wait in line for line in service(**fields))


def test_what_runs_once_begins_when_its_process_is_known() -> None:
    lines = [line.split() for line in service(restart=RestartPolicy("no")) if line.startswith("ExecStart")]
    assert [(line[0], line[2]) for line in lines] == [
        ("ExecStart=/usr/bin/crun", "create"),
        ("ExecStartPost=/usr/bin/crun", "start"),
    ]
    assert "--detach" not in lines[0]
    for others in ({}, {"type": "job"}, {"restart": RestartPolicy("no"), "notify": True}):
        assert not any(line.startswith("ExecStartPost=/usr/bin/crun") for line in service(**others))


def test_the_end_of_a_run_lays_the_root_of_the_next() -> None:
    made = units.render(spec(), PROBE, SECRET_ENV, LINKS)
    lines = made["systemd/system/workload-my-web.service"].splitlines()
    after = [line.removeprefix("ExecStopPost=-").split()[0] for line in lines if line.startswith("ExecStopPost=")]
    assert [Path(program).name for program in after] == ["crun", "umount", "rm", "systemd-tmpfiles", "mount"]
    first = 0x10000000 + 65536
    state = "/var/lib/hostctl/workloads/my-web"
    assert f"ExecStopPost=-/usr/bin/rm -rf {state}/upper {state}/work" in lines
    assert [line for line in made["hostctl/workloads/my-web.fresh.conf"].splitlines() if not line.startswith("#")] == [
        f"d {state} 0700 root root -",
        f"d {state}/upper 0755 {first} {first} -",
        f"d {state}/work 0700 root root -",
    ]
    read_only = units.render(spec(read_only=True), PROBE, SECRET_ENV, LINKS)
    assert "mount" not in read_only["systemd/system/workload-my-web.service"]
    assert not [path for path in read_only if "fresh" in path]


def test_limits_are_the_declared_ones_and_absent_when_not_declared() -> None:
    lines = service(memory=ByteSize.parse("64M"), cpus=Cpus.parse("0.5"), pids=32, restart=RestartPolicy("on-failure"))
    assert {"MemoryMax=67108864", "MemorySwapMax=0", "CPUQuota=50%", "TasksMax=32", "Restart=on-failure"} <= set(lines)
    assert not [line for line in service() if line.startswith(("MemoryMax", "CPUQuota"))]


def test_every_declared_limit_is_a_setting_of_the_unit() -> None:
    disk = DevicePath("/dev/vda")
    lines = service(
        memory_high=ByteSize(1 << 20),
        memory_reservation=ByteSize(4096),
        memory_swap=ByteSize(8192),
        cpu_weight=50,
        cpuset=CpuSet("0,2-3"),
        oom_score_adj=-5,
        stop_grace_period=Duration(90.0),
        stop_signal=Signal("INT"),
        io=IoLimits(weight=10, read_bps={disk: ByteSize(1024)}, write_iops={disk: 7}),
        ulimits={UlimitName("nofile"): Ulimit.parse("10:20"), UlimitName("memlock"): Ulimit.parse("unlimited")},
    )
    assert {
        "MemoryHigh=1048576",
        "MemoryLow=4096",
        "MemorySwapMax=8192",
        "CPUWeight=50",
        "AllowedCPUs=0,2-3",
        "OOMScoreAdjust=-5",
        "TimeoutStopSec=1m30s",
        "KillSignal=SIGINT",
        "IOWeight=10",
        "IOReadBandwidthMax=/dev/vda 1024",
        "IOWriteIOPSMax=/dev/vda 7",
        "LimitNOFILE=10:20",
        "LimitMEMLOCK=infinity:infinity",
        "LimitCORE=0:0",
    } <= set(lines)


def test_a_time_zone_lies_over_the_images_local_time() -> None:
    host = dataclasses.replace(spec(timezone=TimeZone("UTC")), zone=b"TZif")
    made = units.render(host, PROBE, SECRET_ENV, LINKS)
    (overlay,) = [line for line in made["systemd/system/workload-my-web.service"].splitlines() if "-t overlay" in line]
    assert re.findall(r"lowerdir\+=([^,\"\s]+)", overlay)[0] == "/run/hostctl/workloads/my-web/top"


def test_secrets_reach_the_service_encrypted_and_the_environment_only_through_memory() -> None:
    both = {"PASSWORD": Name("pw"), "AGAIN": Name("db")}
    lines = service(secrets=(Name("db"),), env_secrets=both)
    decrypted = [line for line in lines if line.startswith("LoadCredential")]
    assert decrypted == [f"LoadCredentialEncrypted={name}:/var/lib/hostctl/secrets/{name}" for name in ("db", "pw")]
    program = f"{SECRET_ENV} /var/lib/hostctl/current/bundles/my-web /run/hostctl/workloads/my-web"
    for check, files in (
        (None, "config.json"),
        (WorkloadHealth(exec=("ping",)), "config.json,health-process.json"),
        (WorkloadHealth(tcp=TcpAddress.parse("localhost:1")), "config.json"),
    ):
        lines = service(env_secrets={"PASSWORD": Name("pw")}, healthcheck=check)
        before = lines.index(f"ExecStartPre=/usr/bin/python3 -I -S {program} {files} PASSWORD=pw")
        (start,) = [line for line in lines if line.startswith("ExecStart=")]
        assert before < lines.index(start)
        assert "--config /run/hostctl/workloads/my-web/config.json --bundle" in start
    lines = service(secrets=(Name("db"),))
    assert not [line for line in lines if str(SECRET_ENV) in line or "--config" in line]


def test_nobody_requires_the_pass_that_all_wait_for() -> None:
    for network in ("private", "none", "host"):
        lines = service(network=network)
        assert any(line.startswith("Wants=") and "hostctl-network.service" in line for line in lines)
        assert not [line for line in lines if line.startswith("Requires") and "network" in line]
    assert "After=network.target" in service(network="host")


def test_the_overlay_of_a_next_run_is_the_one_of_the_first() -> None:
    (overlay,) = [line for line in service() if "-t overlay" in line]
    lower = re.findall(r"lowerdir\+=([^,\"\s]+)", overlay)
    root = "/run/hostctl/workloads/my-web"
    assert lower == [f"{root}/{'b' * 32}", f"{root}/{'a' * 32}", f"{root}/base"]
    assert "upperdir=/var/lib/hostctl/workloads/my-web/upper" in overlay


def test_no_unit_names_a_generation_and_rendering_twice_gives_the_same() -> None:
    made = units.render(spec(), PROBE, SECRET_ENV, LINKS)
    assert made == units.render(spec(), PROBE, SECRET_ENV, LINKS)
    assert not [text for text in made.values() if "generations" in text]


def test_volumes_keep_their_owner() -> None:
    made = units.render(spec(volumes=(VolumeMount.parse("data:/srv/my data/100%"),)), PROBE, SECRET_ENV, LINKS)
    assert "d /var/lib/hostctl/volumes/data :0755 :0 :0 -" in made["hostctl/workloads/my-web.conf"].splitlines()


def test_a_check_is_a_timer_bound_to_the_workload_in_its_network() -> None:
    made = units.render(
        spec(healthcheck=WorkloadHealth(tcp=TcpAddress.parse("localhost:80"))), PROBE, SECRET_ENV, LINKS
    )
    check = made["systemd/system/workload-my-web.health.service"].splitlines()
    assert "NetworkNamespacePath=/run/netns/workload-my-web" in check
    assert "OnUnitInactiveSec=10s" in made["systemd/system/workload-my-web.health.timer"]
    assert "Wants=workload-my-web.health.timer" in made["systemd/system/workload-my-web.service"]
    inside = units.render(spec(healthcheck=WorkloadHealth(exec=("true",))), PROBE, SECRET_ENV, LINKS)
    assert "NetworkNamespacePath" not in inside["systemd/system/workload-my-web.health.service"]


@pytest.mark.parametrize("text", ["TERM", "SIGTERM\nExecStart=/bin/evil", "99", "0", "SIGRTMIN+1x"])
def test_a_stop_signal_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(WorkloadError, match="no signal"):
        units.render(spec(ImageConfig(diff_ids=(), cmd=("x",), stop_signal=text)), PROBE, SECRET_ENV, LINKS)


def test_signals_are_written_by_name() -> None:
    made = units.render(spec(ImageConfig(diff_ids=(), cmd=("x",), stop_signal="3")), PROBE, SECRET_ENV, LINKS)
    assert "KillSignal=SIGQUIT\n" in made["systemd/system/workload-my-web.service"]


def test_quoting_keeps_specifiers_variables_and_quotes_literal() -> None:
    assert units.unit_word('/a b/$HOME/%n"\\') == '"/a b/$$HOME/%%n\\"\\\\"'
    assert units.unit_value("100%") == "100%%"
    for quote in (units.unit_value, units.unit_word, units.tmpfiles_path):
        with pytest.raises(units.UnitValueError):
            quote("a\nExecStart=/bin/evil")
    with pytest.raises(units.UnitValueError, match="wildcards"):
        units.tmpfiles_path("/srv/*")


def test_a_check_never_starts_its_workload() -> None:
    made = units.render(
        spec(healthcheck=WorkloadHealth(tcp=TcpAddress.parse("localhost:80"))), PROBE, SECRET_ENV, LINKS
    )
    for kind in ("timer", "service"):
        lines = made[f"systemd/system/workload-my-web.health.{kind}"].splitlines()
        assert not [line for line in lines if line.startswith(("BindsTo", "Requires", "Wants", "Upholds"))]
        assert "PartOf=workload-my-web.service" in lines
        assert "StartLimitIntervalSec=0" in lines


def test_the_file_that_holds_back_a_reboot_is_made_before_each_start() -> None:
    made = units.render(spec(read_only=True, may_delay_reboot=True), PROBE, SECRET_ENV, LINKS)
    assert "f /run/hostctl/inhibit/my-web 0444 root root -" in made["hostctl/workloads/my-web.conf"].splitlines()
    assert "ExecStartPre=/usr/bin/systemd-tmpfiles" in made["systemd/system/workload-my-web.service"]
    assert "inhibit" not in "".join(units.render(spec(), PROBE, SECRET_ENV, LINKS).values())


def test_a_profile_is_never_left_out_silently() -> None:
    assert "AssertSecurity=apparmor" in service(apparmor=AppArmorProfile("tight"))
    assert not [line for line in service() if "Security" in line]


def test_standard_input_is_no_device_of_the_host() -> None:
    (line,) = [line for line in service() if line.startswith("StandardInput=")]
    empty = Path(__file__).parents[3] / "rootfs/overlay" / line.removeprefix("StandardInput=file:/")
    assert empty.read_bytes() == b""


def test_a_limited_restart_is_a_start_limit_of_the_unit() -> None:
    lines = service(restart=RestartPolicy("on-failure:5"))
    assert {"Restart=on-failure", "StartLimitIntervalSec=10m", "StartLimitBurst=6"} <= set(lines)
    assert "StartLimitIntervalSec=30m" in service(restart=RestartPolicy("on-failure:30"))
    assert "StartLimitIntervalSec=0" in service(restart=RestartPolicy("on-failure"))
    assert "Restart=always" in service(restart=RestartPolicy("unless-stopped"))


def test_runs_of_a_schedule_that_end_well_do_not_count_as_restarts() -> None:
    forgiven = "ExecStartPost=-/usr/bin/systemctl reset-failed %n"
    often, limited = Schedule("*:0/1"), RestartPolicy("on-failure:5")
    assert forgiven in service(type="job", schedule=often, restart=limited)
    assert forgiven not in service(type="job", schedule=often, restart=RestartPolicy("on-failure"))
    # Without a schedule only what failed is started again, and a service that was started well has not ended well.
    assert forgiven not in service(type="job", restart=limited)
    assert forgiven not in service(restart=limited)


def test_a_job_runs_in_the_foreground_to_its_end() -> None:
    lines = service(type="job")
    assert {"Type=oneshot", "RemainAfterExit=yes", "Restart=no", "TimeoutStartSec=infinity"} <= set(lines)
    assert not [line for line in lines if "--detach" in line or line.startswith("PIDFile")]


def test_a_scheduled_job_is_started_by_its_timer_alone() -> None:
    host = spec(type="job", schedule=Schedule("Sat 04:00"), timezone=TimeZone("UTC"))
    made = units.render(host, PROBE, SECRET_ENV, LINKS)
    assert "OnCalendar=Sat 04:00 UTC\n" in made["systemd/system/workload-my-web.timer"]
    assert "RemainAfterExit" not in made["systemd/system/workload-my-web.service"]
    timer = "workload-my-web.timer"
    assert units.links(host) == {f"systemd/system/timers.target.wants/{timer}": f"../{timer}"}


def test_one_that_is_started_by_hand_is_linked_nowhere_and_its_end_is_not_forgotten() -> None:
    host = spec(autostart=False)
    assert units.links(host) == {}
    kept = "systemd/system/hostctl-network.service.d/my-web.conf"
    assert "Before=workload-my-web.service\n" in units.render(host, PROBE, SECRET_ENV, LINKS)[kept]
    assert kept not in units.render(spec(), PROBE, SECRET_ENV, LINKS)


def test_sockets_start_their_workload_and_are_there_before_it() -> None:
    host = spec(init=False, sockets=(ListenAddress.parse("8080"), ListenAddress.parse("[::1]:53/udp")))
    made = units.render(host, PROBE, SECRET_ENV, LINKS)
    assert made["systemd/system/workload-my-web.socket"].endswith("ListenStream=8080\nListenDatagram=[::1]:53\n")
    assert "Requires=workload-my-web.socket\n" in made["systemd/system/workload-my-web.service"]
    socket = "workload-my-web.socket"
    assert units.links(host) == {f"systemd/system/sockets.target.wants/{socket}": f"../{socket}"}


def test_others_come_first_as_declared() -> None:
    wanted = {
        Name("db"): Dependency(condition="healthy"),
        Name("cache"): Dependency(),
        Name("init"): Dependency(condition="completed"),
    }
    lines = service(depends_on=wanted)
    assert {f"After=workload-{name}.service" for name in wanted} <= set(lines)
    assert {"Wants=workload-db.healthy.service", "After=workload-db.healthy.service"} <= set(lines)
    # A job that has not ended well keeps others down; whatever is stopped, changed or restarted later does not.
    assert "AssertPathExists=/run/hostctl/completed/init" in lines
    assert not [line for line in lines if line.startswith(("Requires=", "BindsTo=", "PartOf=")) and "root" not in line]


def test_nothing_but_health_lets_those_start_that_wait_for_it() -> None:
    awaited = dataclasses.replace(spec(healthcheck=WorkloadHealth(tcp=TcpAddress.parse("localhost:1"))), awaited=True)
    path = "systemd/system/workload-my-web.healthy.service"
    healthy = units.render(awaited, PROBE, SECRET_ENV, LINKS)[path]
    assert f"{PROBE} --wait my-web\n" in healthy
    lines = healthy.splitlines()
    assert {"Wants=workload-my-web.service", "After=workload-my-web.service", "Type=oneshot"} <= set(lines)
    # What is waited for may fail at first, be stopped or restarted: that is no reason to start before it. And what was
    # healthy once may not be so any more when the next one starts.
    ends = ("Requires=", "Requisite=", "BindsTo=", "PartOf=", "RemainAfterExit=", "StopWhenUnneeded=")
    assert not [line for line in lines if line.startswith(ends)]
    # Nor does the instance that there is matter: a change from one to the other, or to none, takes away no wait.
    instances = [dataclasses.replace(awaited, instance=letter) for letter in instance.INSTANCES]
    assert {units.render(each, PROBE, SECRET_ENV, LINKS)[path] for each in instances} == {healthy}


def test_what_it_requires_stops_and_restarts_it_and_its_start_fails_without_and_is_tried_again() -> None:
    wanted = {Name("db"): Dependency(condition="healthy", requires=True), Name("cache"): Dependency()}
    lines = service(depends_on=wanted)
    order = {"After=workload-db.service", "After=workload-db.healthy.service"}
    assert {"PartOf=workload-db.service", *order} <= set(lines)
    assert "PartOf=workload-cache.service" not in lines
    # A start that fails is tried again; one that systemd does not even try, because of Requires=, is not.
    # Nor are both without any pause, as they would be if each try of this one asked for one of the other.
    assert "Wants=workload-db.service" not in lines
    assert not [line for line in lines if line.startswith(("BindsTo=", "Requisite=", "Requires="))]
    starts = [line for line in lines if line.startswith("ExecStart")]
    assert starts[0] == "ExecStartPre=/usr/bin/head --quiet --bytes=0 /run/hostctl/pids/db"
    assert starts[1].startswith("ExecStart=/usr/bin/crun ")


def test_of_replicas_all_are_required() -> None:
    waiting = dataclasses.replace(spec(depends_on={Name("db"): Dependency(requires=True)}), replicas_of={"db": 2})
    lines = units.render(waiting, PROBE, SECRET_ENV, LINKS)["systemd/system/workload-my-web.service"].splitlines()
    assert {"PartOf=workload-db.service", "PartOf=workload-db.2.service"} <= set(lines)
    assert "ExecStartPre=/usr/bin/head --quiet --bytes=0 /run/hostctl/pids/db /run/hostctl/pids/db.2" in lines


def test_a_job_leaves_word_that_it_has_ended_well() -> None:
    left = "ExecStartPost=/usr/bin/touch /run/hostctl/completed/my-web"
    assert left in service(type="job")
    assert left not in service()
    assert left not in service(type="job", schedule=Schedule("daily"))


def test_devices_are_allowed_to_the_unit_and_to_the_workloads_users() -> None:
    device = DeviceMount.parse("/dev/hwrng:r")
    made = units.render(spec(devices=(device,), user=WorkloadUser.parse("7")), PROBE, SECRET_ENV, LINKS)
    assert "DeviceAllow=/dev/hwrng r\n" in made["systemd/system/workload-my-web.service"]
    lines = made["hostctl/workloads/my-web.conf"].splitlines()
    first = 0x10000000 + 65536
    assert [line for line in lines if line.startswith("a+")] == [
        f"a+ /dev/hwrng - - - - u:{user}:r" for user in (first, first + 7)
    ]


def test_a_device_that_a_link_names_is_allowed_to_where_it_leads_at_the_start() -> None:
    devices = tuple(map(DeviceMount.parse, ("/dev/serial/by-id/usb-a.b:c-if00:/dev/stick", "/dev/hwrng:r")))
    made = units.render(spec(devices=devices, user=WorkloadUser.parse("7")), PROBE, SECRET_ENV, LINKS)
    unit = made["systemd/system/workload-my-web.service"].splitlines()
    first = 0x10000000 + 65536
    assert [line for line in unit if line.startswith("ExecStartPre=")] == [
        "ExecStartPre=/usr/bin/systemd-tmpfiles --remove --create /etc/hostctl/workloads/my-web.conf",
        f"ExecStartPre=/usr/bin/python3 -I -S {LINKS} {first},{first + 7} /dev/serial/by-id/usb-a.b:c-if00=rw",
    ]
    assert "DeviceAllow=/dev/serial/by-id/usb-a.b:c-if00 rw" in unit
    assert "serial" not in made["hostctl/workloads/my-web.conf"]
    alone = units.render(spec(devices=devices[:1]), PROBE, SECRET_ENV, LINKS)
    assert "hostctl/workloads/my-web.conf" not in alone
    assert "systemd-tmpfiles --remove --create /etc/hostctl/workloads/my-web.conf" not in str(alone)


def test_limits_of_the_journal_are_the_units() -> None:
    assert {"LogRateLimitBurst=5", "LogRateLimitIntervalSec=30s"} <= set(service(logging=Logging(rate_limit=5)))


def test_a_start_that_waits_for_a_message_is_still_of_the_detached_container() -> None:
    lines = service(notify=True)
    assert {"Type=notify", "NotifyAccess=all", "UnsetEnvironment=NOTIFY_SOCKET"} <= set(lines)
    assert "PIDFile=/run/hostctl/pids/my-web" in lines


def test_an_instance_has_all_of_its_own_and_the_workloads_name_is_an_alias() -> None:
    check = WorkloadHealth(tcp=TcpAddress.parse("localhost:80"))
    one = dataclasses.replace(spec(healthcheck=check), instance="b", awaited=True)
    made = units.render(one, PROBE, SECRET_ENV, LINKS)
    names = {path.rpartition("/")[2] for path in made if "layers" not in path}
    names.remove("workload-my-web.healthy.service")  # for whichever instance it is
    assert all(
        name.startswith(("workload-my-web.b.", "my-web.b.", r"run-hostctl-workloads-my\x2dweb.b-")) for name in names
    )
    service = made["systemd/system/workload-my-web.b.service"].splitlines()
    assert "SyslogIdentifier=my-web" in service
    assert "PIDFile=/run/hostctl/pids/my-web.b" in service
    assert "Wants=workload-my-web.b.health.timer" in service
    (start,) = [line for line in service if line.startswith("ExecStart=")]
    assert start.endswith("--bundle /var/lib/hostctl/current/bundles/my-web.b my-web.b")
    assert units.links(one) == {
        "systemd/system/multi-user.target.wants/workload-my-web.b.service": "../workload-my-web.b.service",
        "systemd/system/workload-my-web.service": "workload-my-web.b.service",
    }
    assert list(units.links(spec())) == ["systemd/system/multi-user.target.wants/workload-my-web.service"]


CHAINED = Network(addresses=("10.88.0.2",), name_servers=("10.88.0.1",), chain="replica-my-web.2", serve=b"{}")


def replica(**fields: Any) -> list[str]:  # noqa: ANN401
    one = dataclasses.replace(spec(replicas=3, **fields), instance="2", network=CHAINED)
    return units.render(one, PROBE, SECRET_ENV, LINKS)["systemd/system/workload-my-web.2.service"].splitlines()


def test_a_replica_gets_connections_from_its_start_to_the_beginning_of_its_end() -> None:
    lines = replica()
    serve = "ExecStartPost=/usr/sbin/nft -j -f /var/lib/hostctl/current/bundles/my-web.2/serve.json"
    assert serve in lines
    out = [
        "-/usr/bin/rm -f /run/hostctl/pids/my-web.2",
        "-/usr/sbin/nft flush chain inet hostctl replica-my-web.2",
    ]
    assert [line for line in lines if line.startswith("ExecStop=")] == [f"ExecStop={each}" for each in out]
    ends = [line for line in lines if line.startswith("ExecStopPost=")]
    assert ends[:2] == [f"ExecStopPost={each}" for each in out]
    assert "crun" in ends[2]
    assert "SyslogIdentifier=my-web.2" in lines
    checked = replica(healthcheck=WorkloadHealth(tcp=TcpAddress.parse("localhost:80")))
    assert serve not in checked  # its first good check does that
    assert [line for line in checked if line.startswith("ExecStop=")] == [f"ExecStop={each}" for each in out]


def test_one_container_has_nothing_to_do_with_the_packet_filter() -> None:
    assert not [line for line in service() if "nft" in line or line.startswith(("ExecStop=", "ExecStartPost="))]


def test_a_replica_is_no_alias_and_others_wait_for_all() -> None:
    one = dataclasses.replace(spec(replicas=3), instance="2", awaited=True)
    assert units.links(one) == {
        "systemd/system/multi-user.target.wants/workload-my-web.2.service": "../workload-my-web.2.service"
    }
    after = {Name("db"): Dependency(condition="healthy"), Name("app"): Dependency()}
    waiting = dataclasses.replace(spec(depends_on=after), replicas_of={"db": 2})
    lines = units.render(waiting, PROBE, SECRET_ENV, LINKS)["systemd/system/workload-my-web.service"].splitlines()
    names = ("db.service", "db.2.service", "db.healthy.service", "db.2.healthy.service", "app.service")
    assert {f"{how}=workload-{name}" for how in ("Wants", "After") for name in names} <= set(lines)
