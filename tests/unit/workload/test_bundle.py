"""What a container is allowed, decided from a declaration and an image."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hostctl.config.addresses import IpAddress
from hostctl.config.networks import Dns, DomainName
from hostctl.config.values import (
    AppArmorProfile,
    ByteSize,
    Capability,
    ConfigMount,
    ContainerPath,
    DeviceMount,
    DroppedCapability,
    Duration,
    HostName,
    ImageReference,
    ListenAddress,
    MountTarget,
    Name,
    NamespacedSysctl,
    RestartPolicy,
    TcpAddress,
    TimeZone,
    TmpfsMount,
    Ulimit,
    UlimitName,
    VolumeMount,
)
from hostctl.config.workload import Workload, WorkloadHealth
from hostctl.image.oci import ImageConfig
from hostctl.image.store import StoredImage
from hostctl.workload import bundle
from hostctl.workload.probe import Check
from hostctl.workload.shown import mode
from hostctl.workload.spec import Network, WorkloadError, WorkloadSpec

PROFILE = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": []}).encode()


def spec(image: ImageConfig | None = None, **fields: Any) -> WorkloadSpec:  # noqa: ANN401 - fields of Workload
    workload = Workload(image=ImageReference.parse("registry.example/web:1"), **fields)
    stored = StoredImage(
        reference="registry.example/web:1",
        digest="sha256:" + "1" * 64,
        config=image or ImageConfig(diff_ids=(), entrypoint=("/bin/web",), cmd=("--serve",), env=("PATH=/bin", "A=1")),
        layers=(Path("/i/sha256-" + "a" * 64 + ".erofs"),),
        bytes=1,
    )
    private = workload.network == "private"
    network = Network(addresses=("10.88.0.2",), name_servers=("10.88.0.1",)) if private else None
    return WorkloadSpec(name="web", workload=workload, image=stored, range_number=2, network=network)


def checked(spec: WorkloadSpec) -> Check:
    """Return the health check as the program that makes it reads it."""
    return Check(bundle.render(spec, PROFILE)["health.check"].decode())


def document(image: ImageConfig | None = None, **fields: Any) -> Any:  # noqa: ANN401 - JSON
    return json.loads(bundle.render(spec(image, **fields), PROFILE)["config.json"])


def mount(made: Any, destination: str) -> Any:  # noqa: ANN401 - JSON
    return next(entry for entry in made["mounts"] if entry["destination"] == destination)


def test_a_private_workload_joins_the_namespaces_of_the_network_pass_and_no_other() -> None:
    namespaces = {entry["type"]: entry.get("path") for entry in document()["linux"]["namespaces"]}
    assert namespaces == {
        "pid": None,
        "mount": None,
        "ipc": None,
        "uts": None,
        "cgroup": None,
        "user": "/run/hostctl/userns/web",
        "network": "/run/netns/workload-web",
    }


@pytest.mark.parametrize(("network", "own"), [("none", True), ("host", False)])
def test_other_networks_map_their_range_and_only_none_gets_an_empty_network(network: str, own: bool) -> None:
    made = document(network=network)
    linux = made["linux"]
    assert ("rro" in mount(made, "/sys")["options"]) is not own  # all of the host's /sys, not only its top
    assert ("network" in [entry["type"] for entry in linux["namespaces"]]) is own
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 0x10000000 + 2 * 65536, "size": 65536}]


def test_capabilities_are_the_default_set_and_what_is_declared_and_root_alone_has_them_at_once() -> None:
    root = document(capabilities=("CAP_NET_RAW",))["process"]["capabilities"]
    assert set(root["effective"]) == {*bundle.DEFAULT_CAPABILITIES, "CAP_NET_RAW"} == set(root["bounding"])
    image = ImageConfig(diff_ids=(), cmd=("/bin/web",), user="1000:50")
    process = document(image, capabilities=("CAP_NET_RAW",))["process"]
    assert process["user"] == {"uid": 1000, "gid": 50}
    assert process["capabilities"]["effective"] == process["capabilities"]["ambient"] == ["CAP_NET_RAW"]
    assert document(image)["process"]["capabilities"]["effective"] == []
    assert process["noNewPrivileges"] is True


@pytest.mark.parametrize("user", ["nginx", "0:www", "70000", "1:2:3", "²"])
def test_a_user_that_is_no_number_in_the_range_is_refused(user: str) -> None:
    with pytest.raises(WorkloadError, match="wants to run as user"):
        document(ImageConfig(diff_ids=(), cmd=("x",), user=user))


@pytest.mark.parametrize("folder", ["/proc/self/fd/7", "//proc/self/fd/7", "/./proc"])
def test_a_working_directory_in_proc_is_refused(folder: str) -> None:
    with pytest.raises(WorkloadError, match="wants to start in"):
        document(ImageConfig(diff_ids=(), cmd=("x",), working_dir=folder))


def test_a_declared_command_replaces_the_images_arguments_too() -> None:
    assert bundle.arguments(spec()) == ("/bin/web", "--serve")
    assert bundle.arguments(spec(args=("-v",))) == ("/bin/web", "-v")
    assert bundle.arguments(spec(command=("/bin/sh",))) == ("/bin/sh",)
    with pytest.raises(WorkloadError, match="nothing about what to run"):
        bundle.arguments(spec(ImageConfig(diff_ids=())))


def test_variables_go_declared_over_image_over_default() -> None:
    assert document(env={"A": "2"})["process"]["env"] == ["PATH=/bin", "HOSTNAME=web", "A=2"]


def test_volumes_are_shown_by_the_containers_ids_and_lie_outside_in() -> None:
    host = spec(volumes=_volumes("b:/srv/in:ro", "a:/srv"))
    made = json.loads(bundle.render(host, PROFILE)["config.json"])
    targets = [entry["destination"] for entry in made["mounts"]]
    assert targets.index("/srv") < targets.index("/srv/in")
    inner = mount(made, "/srv/in")
    assert {"nosuid", "nodev", "ro"} <= set(inner["options"])
    assert inner["source"] == "/var/lib/hostctl/volumes/b"
    assert inner["uidMappings"] == [host.mapping]


def test_the_command_is_process_1_only_without_init() -> None:
    assert document()["process"]["args"][:2] == ["/dev/init", "--"]
    made = document(init=False)
    assert made["process"]["args"] == ["/bin/web", "--serve"]
    assert not [entry for entry in made["mounts"] if entry["destination"] == "/dev/init"]


def test_names_zone_folder_and_labels_are_the_declared_ones() -> None:
    fields: dict[str, Any] = {
        "hostname": HostName("db.example"),
        "timezone": TimeZone("UTC"),
        "working_dir": ContainerPath("/srv/a"),
    }
    made = document(**fields, labels={"run.oci.handler": "krun"})
    assert made["hostname"] == "db.example"
    assert made["process"]["cwd"] == "/srv/a"
    assert {"HOSTNAME=db.example", "TZ=UTC"} <= set(made["process"]["env"])
    assert made["annotations"] == {"org.hostctl.label.run.oci.handler": "krun"}
    assert b"10.88.0.2 db.example web\n" in bundle.files(spec(**fields))["hosts"]


def test_memory_that_is_mounted_has_the_declared_size_and_replaces_the_one_of_a_read_only_root() -> None:
    made = document(read_only=True, tmpfs=(TmpfsMount.parse("/tmp:size=1M,mode=0700"),), shm_size=ByteSize(1 << 20))
    assert "size=1048576" in mount(made, "/dev/shm")["options"]
    (only,) = [entry for entry in made["mounts"] if entry["destination"] == "/tmp"]
    assert {"size=1048576", "mode=0700", "noexec"} <= set(only["options"])
    executable = document(tmpfs=(TmpfsMount.parse("/x:exec"),))
    assert "noexec" not in mount(executable, "/x")["options"]


def test_limits_of_processes_and_settings_of_namespaces_are_the_declared_ones_over_the_default() -> None:
    made = document(
        ulimits={UlimitName("memlock"): Ulimit.parse("unlimited")}, sysctls={NamespacedSysctl("kernel.sem"): "1 2"}
    )
    limits = {each["type"]: (each["soft"], each["hard"]) for each in made["process"]["rlimits"]}
    assert limits == {"RLIMIT_CORE": (0, 0), "RLIMIT_MEMLOCK": (2**64 - 1,) * 2, "RLIMIT_NOFILE": (65536, 524288)}
    assert made["linux"]["sysctl"] == {"kernel.sem": "1 2"}


def test_a_profile_confines_the_workload_and_its_check_and_without_one_nothing_is_said() -> None:
    check = WorkloadHealth(exec=("/bin/check",))
    made = bundle.render(spec(apparmor=AppArmorProfile("tight"), healthcheck=check), PROFILE)
    for process in (json.loads(made["config.json"])["process"], json.loads(made["health-process.json"])):
        assert process["apparmorProfile"] == "tight"
    assert "apparmorProfile" not in document()["process"]


def test_dropped_capabilities_are_gone_and_the_profile_may_be_the_declarations() -> None:
    dropped = document(cap_drop=(DroppedCapability("ALL"),), capabilities=(Capability("CHOWN"),))
    assert dropped["process"]["capabilities"]["bounding"] == ["CAP_CHOWN"]
    own = '{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}'
    host = dataclasses.replace(spec(seccomp=Name("strict")), configs={"strict": own})
    seccomp = json.loads(bundle.render(host, PROFILE)["config.json"])["linux"]["seccomp"]
    assert (seccomp["defaultAction"], seccomp["syscalls"][0]["names"]) == ("SCMP_ACT_KILL", ["read"])


def test_a_device_is_bound_into_the_containers_own_dev() -> None:
    made = document(devices=(DeviceMount.parse("/dev/hwrng:/dev/random-source:r"),))
    entry = mount(made, "/dev/random-source")
    assert (entry["source"], "nodev" in entry["options"], "ro" in entry["options"]) == ("/dev/hwrng", False, True)


def test_readiness_is_said_to_systemd_itself() -> None:
    made = document(notify=True)
    assert mount(made, "/dev/notify")["source"] == "/run/systemd/notify"
    assert "NOTIFY_SOCKET=/dev/notify" in made["process"]["env"]
    assert "notify" not in json.dumps(document())


def test_sockets_are_counted_for_process_1() -> None:
    made = document(init=False, sockets=(ListenAddress.parse("80"), ListenAddress.parse("81")))
    assert "LISTEN_FDS=2" in made["process"]["env"]


def test_a_check_may_have_no_consequence() -> None:
    check = WorkloadHealth(tcp=TcpAddress.parse("localhost:1"), action="none")
    assert checked(spec(healthcheck=check)).restart is False


def test_a_config_is_a_file_of_the_bundle_and_its_lines_may_be_variables() -> None:
    fields: dict[str, Any] = {"configs": (ConfigMount.parse("site:/etc/site.conf"),), "env_from": (Name("more"),)}
    host = dataclasses.replace(
        spec(**fields, env={"A": "3"}), configs={"site": "x = 1\n", "more": "# b\nA=2\nB=a b=c\n"}
    )
    made = bundle.render(host, PROFILE)
    assert made["config-site"] == b"x = 1\n"
    assert "config-more" not in made
    document = json.loads(made["config.json"])
    assert document["process"]["env"] == ["PATH=/bin", "HOSTNAME=web", "A=3", "B=a b=c"]
    file = mount(document, "/etc/site.conf")
    assert file["source"] == f"{host.bundle}/config-site"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(file["options"])


def test_no_config_is_called_as_another_file_of_the_bundle() -> None:
    host = dataclasses.replace(spec(configs=(ConfigMount.parse("json:/etc/j"),)), configs={"json": "{}"})
    assert "process" in json.loads(bundle.render(host, PROFILE)["config.json"])


def test_only_what_is_mounted_into_the_container_can_be_read_on_the_host() -> None:
    chained = Network(addresses=("10.88.0.2",), name_servers=("10.88.0.1",), chain="replica-web", serve=b"{}")
    host = dataclasses.replace(
        spec(
            healthcheck=WorkloadHealth(exec=("/bin/ok",)),
            configs=(ConfigMount.parse("json:/etc/j"),),
            env={"PASSWORD": "hunter2"},
        ),
        configs={"json": "{}"},
        network=chained,
        zone=b"TZif2",
    )
    made = bundle.render(host, PROFILE)
    sources = {each["source"] for each in json.loads(made["config.json"])["mounts"]}
    assert {"health-process.json", "health.check", "serve.json", "root.json", "localtime"} <= set(made)
    shown = {file for file in made if f"{host.bundle}/{file}" in sources}
    assert {file: mode(file) for file in made} == {file: 0o644 if file in shown else 0o600 for file in made}
    assert not any(b"hunter2" in made[file] for file in shown)


def test_another_images_files_can_only_be_read() -> None:
    host = dataclasses.replace(spec(), image_volumes={"/models": spec().image})
    entry = mount(json.loads(bundle.render(host, PROFILE)["config.json"]), "/models")
    assert entry["source"] == host.volume_root("/models")
    assert {"ro", "nosuid", "nodev"} <= set(entry["options"])


def test_a_secret_is_shown_as_the_workloads_users_and_lies_in_memory() -> None:
    made = document(ImageConfig(diff_ids=(), cmd=("x",), user="1000:50"), secrets=(Name("db"),))
    targets = [entry["destination"] for entry in made["mounts"]]
    assert targets.index("/run/secrets") < targets.index("/run/secrets/db")
    file = mount(made, "/run/secrets/db")
    assert file["source"] == "/run/credentials/workload-web.service/db"
    first = 0x10000000 + 2 * 65536
    assert file["uidMappings"] == [{"containerID": 0, "hostID": first + 1000, "size": 1}]
    assert file["gidMappings"] == [{"containerID": 0, "hostID": first + 50, "size": 1}]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(file["options"])


def test_a_folder_of_the_host_is_one_of_those_for_it_and_cannot_be_written_unless_declared() -> None:
    made = document(volumes=_volumes("/var/lib/hostctl/binds/in:/in", "/var/lib/hostctl/binds/out:/out:rw"))
    assert mount(made, "/in")["source"] == "/var/lib/hostctl/binds/in"
    assert "ro" in mount(made, "/in")["options"]
    assert "ro" not in mount(made, "/out")["options"]
    assert mount(made, "/out")["uidMappings"] == [spec().mapping]


def test_what_is_mounted_below_a_mapped_mount_never_appears_on_the_host() -> None:
    text = "/var/lib/hostctl/binds/in:/in"
    made = document(volumes=_volumes(text, "a:/srv", "b:/srv/in"), secrets=(Name("db"),))
    mapped = [entry for entry in made["mounts"] if "uidMappings" in entry]
    assert [entry["destination"] for entry in mapped] == ["/in", "/srv", "/srv/in", "/run/secrets/db"]
    assert all("rprivate" in entry["options"] for entry in mapped)


def test_nothing_that_is_mounted_below_what_is_bound_appears_on_the_host() -> None:
    made = document(network="host", notify=True)["mounts"]
    bound = {entry["destination"]: entry["options"] for entry in made if entry["type"] == "bind"}
    assert {"/sys", "/etc/hosts", "/dev/notify"} <= bound.keys()
    assert all("rprivate" in options for options in bound.values())


def _volumes(*texts: str) -> tuple[Any, ...]:
    return tuple(VolumeMount.parse(text) for text in texts)


def test_read_only_means_the_root_and_leaves_run_and_tmp() -> None:
    made = document(read_only=True)
    assert made["root"]["readonly"] is True
    assert mount(made, "/run")["type"] == mount(made, "/tmp")["type"] == "tmpfs"
    assert not [entry for entry in document()["mounts"] if entry["destination"] == "/tmp"]


def test_its_own_name_and_the_name_server_are_in_etc() -> None:
    private = bundle.files(spec())
    assert b"10.88.0.2 web\n" in private["hosts"]
    assert private["resolv.conf"].startswith(b"nameserver 10.88.0.1\n")
    assert bundle.files(spec(network="none"))["resolv.conf"] == b""
    own = Dns(servers=(IpAddress("9.9.9.9"),), search=(DomainName("example.org"),))
    asked = {kind: bundle.files(spec(network=kind, dns=own))["resolv.conf"] for kind in ("private", "host")}
    assert asked["private"] == b"nameserver 10.88.0.1\nsearch example.org\noptions edns0\n"
    assert asked["host"] == b"nameserver 9.9.9.9\nsearch example.org\noptions edns0\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"volumes": (VolumeMount.parse("settings:/etc"),)},
        {"tmpfs": (TmpfsMount.parse("/etc"),)},
        {"image_volumes": {MountTarget("/etc"): ImageReference.parse("registry.example/web:1")}},
    ],
)
def test_its_own_name_and_the_name_server_lie_over_what_is_mounted_at_etc(fields: dict[str, Any]) -> None:
    host = spec(**fields)
    host = dataclasses.replace(host, image_volumes={str(path): host.image for path in host.workload.image_volumes})
    targets = [entry["destination"] for entry in json.loads(bundle.render(host, PROFILE)["config.json"])["mounts"]]
    for name in ("hostname", "hosts", "resolv.conf"):
        assert targets.index("/etc") < targets.index(f"/etc/{name}")


def test_a_config_may_take_the_place_of_one_of_these_files() -> None:
    host = spec(configs=(ConfigMount.parse("names:/etc/hosts"),), volumes=(VolumeMount.parse("settings:/etc"),))
    host = dataclasses.replace(host, configs={"names": ""})
    made = json.loads(bundle.render(host, PROFILE)["config.json"])["mounts"]
    assert [entry["source"] for entry in made if entry["destination"] == "/etc/hosts"] == [
        f"{host.bundle}/config-names"
    ]


def test_the_check_is_a_document_and_a_command_runs_as_the_container_does() -> None:
    check = WorkloadHealth(exec=("/bin/ok", "$HOME %i"), retries=2, start_period=Duration(5.0))
    host = spec(healthcheck=check, restart=RestartPolicy("no"))
    made = bundle.render(host, PROFILE)
    read = checked(host)
    assert (read.kind, read.target) == ("exec", f"{host.bundle}/health-process.json")
    assert (read.restart, read.join, read.retries, read.start_period, read.timeout) == (False, False, 2, 5.0, 5.0)
    process = json.loads(made["health-process.json"])
    assert process["args"] == ["/bin/ok", "$HOME %i"]
    assert process["capabilities"] == json.loads(made["config.json"])["process"]["capabilities"]
    secret = spec(healthcheck=check, env_secrets={"PASSWORD": Name("pw")})
    assert checked(secret).target == "/run/hostctl/workloads/web/health-process.json"
    assert "PASSWORD" not in str(bundle.render(secret, PROFILE))
    tcp = checked(spec(healthcheck=WorkloadHealth(tcp=TcpAddress.parse("localhost:1")), network="none"))
    assert (tcp.kind, tcp.target, tcp.join, tcp.restart) == ("tcp", "localhost:1", True, True)


def test_only_a_workload_that_may_delay_a_reboot_has_the_file_for_it_and_cannot_write_it() -> None:
    made = mount(document(may_delay_reboot=True), "/run/hostctl/inhibit")
    assert made["source"] == "/run/hostctl/inhibit/web"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(made["options"])
    assert "inhibit" not in json.dumps(document())


def test_a_replica_knows_itself_by_its_number_and_brings_what_leads_to_it() -> None:
    one = spec(replicas=3, healthcheck=WorkloadHealth(tcp=TcpAddress.parse("localhost:80")))
    chained = Network(addresses=("10.88.0.4",), name_servers=("10.88.0.1",), chain="replica-web.2", serve=b"{}")
    two = dataclasses.replace(one, instance="2", network=chained)
    made = bundle.render(two, PROFILE)
    name = two.name
    assert json.loads(made["config.json"])["hostname"] == f"{name}.2"
    assert f"10.88.0.4 {name}.2\n".encode() in made["hosts"]
    assert made["serve.json"] == b"{}"
    check = checked(two)
    assert (check.serve, check.chain) == (f"/var/lib/hostctl/current/bundles/{name}.2/serve.json", "replica-web.2")
    first = bundle.render(one, PROFILE)
    assert json.loads(first["config.json"])["hostname"] == f"{name}.1"
    assert "serve.json" not in first
    assert checked(one).chain == ""
