"""Value types: what they take, what they refuse, and that str() and parse() are inverse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.config import values
from hostctl.config.values import (
    ByteSize,
    Capability,
    ConfigMount,
    ContainerPath,
    Cpus,
    CpuSet,
    DeviceMount,
    DevicePath,
    DroppedCapability,
    Duration,
    EtcPath,
    FileMode,
    HostName,
    HttpUrl,
    ImageReference,
    InterfaceAddress,
    IpAddress,
    ListenAddress,
    MountTarget,
    Name,
    NamespacedSysctl,
    PortMapping,
    RegistryHost,
    RelativePath,
    ReleaseVersion,
    RestartPolicy,
    Schedule,
    Signal,
    SshKey,
    TimeZone,
    TmpfsMount,
    Ulimit,
    UlimitName,
    UserName,
    VolumeMount,
    WorkloadUser,
)
from hostctl.config.versions import compare

VALUE_TYPES: list[Any] = [getattr(values, name) for name in values.__all__ if name not in ("Text", "CAPABILITIES")]
DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_example_is_canonical(value_type: type[Any]) -> None:
    assert str(value_type.parse(value_type.EXAMPLE)) == value_type.EXAMPLE


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@pytest.mark.parametrize("text", ["", "\n", "a\nb", "\0", "x\x1b[0m", "x" * 10_000])
def test_no_type_takes_nonsense(value_type: type[Any], text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        value_type.parse(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value_type", "text", "canonical"),
    [
        (ByteSize, "64M", "64M"),
        (ByteSize, "1.5G", "1536M"),
        (ByteSize, "1024", "1K"),
        (ByteSize, "10MiB", "10M"),
        (ByteSize, "512m", "512M"),
        (ByteSize, "2gb", "2G"),
        (ByteSize, "2048b", "2K"),
        (Duration, "90s", "1m30s"),
        (Duration, "1500ms", "1s500ms"),
        (Duration, "1d", "1d"),
        (FileMode, "644", "0644"),
        (Cpus, "2.00", "2"),
        (Cpus, "10", "10"),
        (IpAddress, "2001:DB8:0::1", "2001:db8::1"),
        (InterfaceAddress, "2001:DB8::1/64", "2001:db8::1/64"),
        (RegistryHost, "Registry.Example:5000", "registry.example:5000"),
        (RegistryHost, "Index.Docker.io", "docker.io"),
        (RegistryHost, "registry-1.docker.io", "docker.io"),
        (RegistryHost, "registry.hub.docker.com", "docker.io"),
        (ImageReference, "Registry.Example/a/b:V1", "registry.example/a/b:V1"),
        (ImageReference, "nginx", "docker.io/library/nginx:latest"),
        (ImageReference, "library/nginx:1", "docker.io/library/nginx:1"),
        (ImageReference, "team/site", "docker.io/team/site:latest"),
        (ImageReference, "index.docker.io/nginx:1", "docker.io/library/nginx:1"),
        (ImageReference, "r.example/site", "r.example/site:latest"),
        (ImageReference, "localhost/site", "localhost/site:latest"),
        (ImageReference, "r:5000/site", "r:5000/site:latest"),
        (ImageReference, f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        (ImageReference, f"nginx:1@{DIGEST}", f"docker.io/library/nginx:1@{DIGEST}"),
        (Capability, "net_raw", "CAP_NET_RAW"),
        (RelativePath, "overlay//x/", "overlay/x"),
        (PortMapping, "8080:80/tcp", "8080:80"),
        (PortMapping, "[::1]:53:53/udp", "[::1]:53:53/udp"),
        (VolumeMount, "content:/srv/:rw", "content:/srv"),
        (WorkloadUser, "0:0", "0:0"),
    ],
)
def test_canonical_text(value_type: type[Any], text: str, canonical: str) -> None:
    value = value_type.parse(text)
    assert str(value) == canonical
    assert value_type.parse(canonical) == value


@pytest.mark.parametrize(
    ("value_type", "text", "words"),
    [
        (ByteSize, "0", "out of range"),
        (ByteSize, "64x", "64M"),
        (ByteSize, "0.0001K", "whole number of bytes"),
        (Duration, "10", "unit"),
        (Duration, "0s", "out of range"),
        (Duration, "1s1m", "unit"),
        (FileMode, "4755", "octal"),
        (FileMode, "0o888", "octal"),
        (Cpus, "0", "out of range"),
        (Cpus, "nan", "cores"),
        (IpAddress, "192.0.2.256", "IP address"),
        (InterfaceAddress, "192.0.2.0/24", "network itself"),
        (InterfaceAddress, "192.0.2.255/24", "broadcast"),
        (InterfaceAddress, "192.0.2.1/33", "prefix"),
        (HttpUrl, "ftp://a/", "http"),
        (HttpUrl, "http://user:secret@a/", "user name"),
        (HttpUrl, "http://a:99999/", "http"),
        (HttpUrl, "http://a/#x", "fragment"),
        (HttpUrl, "http:///x", "host"),
        (HttpUrl, "http://[::1/", "http"),
        (ImageReference, "Nginx", "an image"),
        (ImageReference, "r.example/Site:1", "an image"),
        (ImageReference, "r.example/site@sha256:12", "an image"),
        (ImageReference, "r.example:0/site:1", "port"),
        (SshKey, "ssh-dss AAAAB3NzaC1kc3M= x", "not a type"),
        (SshKey, "ssh-ed25519 AAAA x", "damaged"),
        (SshKey, 'command="x" ssh-ed25519 AAAA', "public key"),
        (TimeZone, "Europe/Berln", "did you mean 'Europe/Berlin'"),
        (UserName, "root", "system user"),
        (UserName, "Ops", "user name"),
        (HostName, "localhost", "name of a machine"),
        (HostName, "a" * 63 + ".b.c", "64 characters"),
        (Name, "a_b", "dashes"),
        (EtcPath, "/etc/../passwd", ".."),
        (EtcPath, "/etc//motd", "'/etc/motd'"),
        (EtcPath, "/etc/hostname", "setting 'hostname'"),
        (EtcPath, "/usr/x", "below /etc"),
        (RelativePath, "../x", ".."),
        (RelativePath, "/x", "relative"),
        (Capability, "CAP_NET_ROW", "CAP_NET_RAW"),
        (PortMapping, "80", "published port"),
        (PortMapping, "0:80", "host port"),
        (PortMapping, "80:65536", "container port"),
        (PortMapping, "1.2.3:80:80", "IP address"),
        (VolumeMount, "content:/", "container's root"),
        (VolumeMount, "content:/a/../b", "container's root"),
        (VolumeMount, "content:/proc/x", "/proc"),
        (VolumeMount, "Content:/srv", "a name"),
        (WorkloadUser, "65536", "65535"),
        (WorkloadUser, "www-data", "numbers"),
        (VolumeMount, "/etc:/x", "/var/lib/hostctl/binds/NAME"),
        (VolumeMount, "/var/lib/hostctl/binds/../x:/x", "binds/NAME"),
        (VolumeMount, "/var/lib/hostctl/binds/a/b:/x", "binds/NAME"),
        (ConfigMount, "site:/proc/x", "/proc"),
        (ConfigMount, "site", "site:/etc/site.conf"),
        (RestartPolicy, "on-failure:0", "on-failure:5"),
        (RestartPolicy, "sometimes", "unless-stopped"),
        (Schedule, "24:00", "hour"),
        (Schedule, "*-*-32 03:00", "day of a month"),
        (Schedule, "*-5..2-1 03:00", "month"),
        (Schedule, "12:00/0", "minute"),
        (Schedule, "*/5:00", "calendar"),
        (Schedule, "2026-01-01 03:00", "calendar"),
        (Schedule, "daily Europe/Berlin", "calendar"),
        (ListenAddress, "0", "port"),
        (ListenAddress, "1.2.3:80", "IP address"),
        (DroppedCapability, "CAP_NET_ROW", "CAP_NET_RAW"),
        (DeviceMount, "/dev/vda", "none of the devices"),
        (DeviceMount, "/dev/mem", "none of the devices"),
        (DeviceMount, "/dev/fuse/../vda", "none of the devices"),
        (DeviceMount, "/dev/kvm:/dev/null", "place in a container"),
        (DeviceMount, "/dev/kvm:/dev/pts/0", "place in a container"),
        (DeviceMount, "/dev/kvm:/dev/../etc", "place in a container"),
        (DeviceMount, "/dev/kvm:rwm", "none of the devices"),
        (DeviceMount, "kvm", "as in /dev/kvm"),
        (MountTarget, "/dev/x", "/dev"),
        (MountTarget, "/a/..", "plain path"),
        (Ulimit, "20:10", "above the hard"),
        (Ulimit, "unlimited:10", "above the hard"),
        (Ulimit, "9999999999999999999", "range"),
        (UlimitName, "files", "nofile"),
        (Signal, "SIGFOO", "SIGTERM"),
        (Signal, "RTMIN+99", "signal"),
        (CpuSet, "3-1", "before it begins"),
        (DevicePath, "/dev/../etc/shadow", "device node"),
        (NamespacedSysctl, "kernel.core_pattern", "whole machine"),
        (NamespacedSysctl, "vm.swappiness", "namespace"),
        (ContainerPath, "/proc/self/fd/7", "/proc"),
        (ContainerPath, "/a/../b", "plain path"),
        (TmpfsMount, "/a:uid=1", "'uid' is no option"),
        (TmpfsMount, "/dev/x", "/dev"),
        (TmpfsMount, "/a:size=x", "size"),
        (ReleaseVersion, "1_2", "version"),
        (ReleaseVersion, "1.", "end with"),
    ],
)
def test_refusals_say_what_would_be_right(value_type: type[Any], text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        value_type.parse(text)
    assert words in str(caught.value)


def test_parts_of_an_image_reference() -> None:
    image = ImageReference(f"registry.example:5000/team/site:1.2@{DIGEST}")
    assert (image.registry, image.repository) == ("registry.example:5000", "team/site")
    assert (image.tag, image.digest) == ("1.2", DIGEST)
    assert ImageReference("localhost/site:1").digest is None
    assert ImageReference(f"localhost/site@{DIGEST}").tag is None


def test_parts_of_an_address() -> None:
    url = HttpUrl("http://[::1]:8080/a?b")
    assert (url.host, url.port, url.path) == ("::1", 8080, "/a?b")
    assert (HttpUrl("https://a.example").port, HttpUrl("https://a.example").path) == (443, "/")


def test_port_mapping_fields() -> None:
    mapping = PortMapping.parse("[2001:DB8::1]:53:5353/udp")
    assert mapping == PortMapping(address="2001:db8::1", host_port=53, container_port=5353, protocol="udp")


def test_mount_fields() -> None:
    assert VolumeMount.parse("data:/srv:ro") == VolumeMount(volume=Name("data"), target="/srv", read_only=True)


def test_parts_of_how_a_workload_runs() -> None:
    assert (RestartPolicy("on-failure:5").when, RestartPolicy("on-failure:5").limit) == ("on-failure", 5)
    assert (RestartPolicy("unless-stopped").when, RestartPolicy("no").limit) == ("always", None)
    assert [ListenAddress.parse(text).stream for text in ("80", "[::1]:80", "127.0.0.1:53/udp")] == [
        "80",
        "[::1]:80",
        "127.0.0.1:53",
    ]
    device = DeviceMount.parse("/dev/ttyUSB0:/dev/modem:r")
    assert (device.source, device.target, device.access) == ("/dev/ttyUSB0", "/dev/modem", "r")
    assert str(device) == "/dev/ttyUSB0:/dev/modem:r"
    assert {"CAP_CHOWN", "CAP_SYS_ADMIN"} <= DroppedCapability("all").names
    for text in ("*-*-1..7,15 00/6:00", "Mon..Fri 22:30", "*-*~1 04:00:30", "*:0/5"):
        assert str(Schedule(text)) == text


def test_numbers_count_in_their_unit() -> None:
    assert int(ByteSize.parse("64M")) == 64 << 20
    assert float(Duration.parse("1h30m")) == 5400.0
    assert Cpus.parse("0.5").percent == 50
    assert FileMode.parse("0644") == 0o644


def test_versions_in_the_order_of_the_specification() -> None:
    # The example list of UAPI.10, oldest first.
    listed = ["122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1"]
    listed += ["123^post1", "123.a-1", "123.1-1", "123a-1", "124-1"]
    for i, left in enumerate(listed):
        for j, right in enumerate(listed):
            assert compare(left, right) == (i > j) - (i < j), (left, right)


def test_versions_compare_numbers_as_numbers() -> None:
    assert ReleaseVersion("2026.11.10") > ReleaseVersion("2026.11.9")
    assert ReleaseVersion("1.2~rc1") < ReleaseVersion("1.2")
    assert sorted(map(ReleaseVersion, ["10", "9", "1"])) == ["1", "9", "10"]
    assert compare("1.002", "1.2") == 0


@given(st.text(max_size=12), st.text(max_size=12))
def test_comparing_any_texts_ends_and_is_antisymmetric(left: str, right: str) -> None:
    assert compare(left, right) == -compare(right, left)
    assert compare(left, left) == 0


@given(st.integers(min_value=1, max_value=1 << 60))
def test_every_size_survives_its_text(size: int) -> None:
    assert ByteSize.parse(str(ByteSize(size))) == size


@given(st.integers(min_value=1, max_value=366 * 86_400_000))
def test_every_time_survives_its_text(milliseconds: int) -> None:
    assert Duration.parse(str(Duration(milliseconds / 1000))) == milliseconds / 1000


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@given(text=st.text(max_size=40))
def test_any_text_is_a_value_or_a_value_error(value_type: type[Any], text: str) -> None:
    try:
        value = value_type.parse(text)
    except ValueError:
        return
    assert value_type.parse(str(value)) == value
