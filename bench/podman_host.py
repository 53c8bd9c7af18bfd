"""The host on which our workloads and Podman's Quadlets run side by side, from one image.

Podman is not part of a host of ours. The release `bench/podman` adds it with three settings: its networks are kept
below /var, since /etc is read-only, its addresses are not those of our networks, and its firewall is nftables, the only
one on the host. Our images leave out what conmon and Podman's networks need, so that is laid over the root. Everything
else is the product as it is.
"""

from __future__ import annotations

from pathlib import Path

from hostctl_qemu.ssh import Ssh

from bench import hosts

RELEASE = hosts.ROOT / "bench/podman"
LIBRARIES = ("libglib2.0-0t64", "libatomic1", "netavark")
ARCHIVE = "/var/lib/site.oci.tar"
IMAGE = "localhost/site:1"
QUADLETS = "/run/containers/systemd"
OUR_PORT, THEIR_PORT = 8081, 9081
LOAD_SECONDS = 900.0

QUADLET = """\
[Unit]
Description=The same image by Podman

[Container]
Image={image}
ContainerName=quadlet-{number}
PublishPort={port}:80
ReadOnly=true
Pull=never

[Service]
TimeoutStartSec=300
"""


def ours(number: int) -> str:
    """Return the unit of our workload with a number."""
    return f"workload-site-{number}.service"


def theirs(number: int) -> str:
    """Return the unit of the Quadlet with a number."""
    return f"quadlet-{number}.service"


def declaration(count: int) -> str:
    """Return a host.yaml with workloads `site-1` and so on, each in the private network with a published port."""
    lines = ["version: 1", "hostname: bench", "workloads:"]
    lines += [
        f'  site-{n}: {{image: "{IMAGE}", ports: ["{OUR_PORT + n - 1}:80"], read_only: true}}'
        for n in range(1, count + 1)
    ]
    return "\n".join(lines) + "\n"


def build() -> Path:
    """Build the release and return the folder with what was made."""
    return hosts.build_with(RELEASE, LIBRARIES)


def load_quadlets(ssh: Ssh, count: int) -> None:
    """Bring the image to Podman and have its generator make the units of ``count`` Quadlets; none is started."""
    ssh.put(hosts.SITE, ARCHIVE, LOAD_SECONDS)
    ssh.run(["podman", "load", "--quiet", "--input", ARCHIVE], seconds=LOAD_SECONDS)
    ssh.run(["podman", "image", "exists", IMAGE], seconds=120)
    ssh.run(["mkdir", "-p", QUADLETS])
    for number in range(1, count + 1):
        text = QUADLET.format(image=IMAGE, number=number, port=THEIR_PORT + number - 1)
        ssh.run(["dd", f"of={QUADLETS}/quadlet-{number}.container", "status=none"], stdin=text.encode())
    ssh.run(["systemctl", "daemon-reload"], seconds=120)


def version(ssh: Ssh) -> str:
    """Return what is compared, with versions."""
    programs = (["podman", "--version"], ["crun", "--version"], ["systemctl", "--version"])
    return ", ".join(ssh.run(words, seconds=120).text.splitlines()[0] for words in programs)
