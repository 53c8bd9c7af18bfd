"""From the firmware's start to a published workload that answers over HTTP: `bench/boot [--json] [--runs N]`.

Each run boots a new machine through OVMF and the boot loader, with the state partition and the first generation still
to be made, shuts it down, and boots it again. The clock starts with the processors and stops at the first answer that
this computer gets.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from hostctl_qemu.machine import Machine, MachineConfig, free_port

from bench import figures, hosts

RELEASE = """\
version: 1
name: boot
release: "1"
images: [site.oci.tar]
"""
DECLARATION = """\
version: 1
hostname: bench
workloads:
  site: {image: "localhost/site:1", ports: ["8080:80"], read_only: true, required: true}
"""
STOP_SECONDS = 180.0


def boot(config: MachineConfig, port: int) -> tuple[float, str]:
    """Boot a machine to the first answer, let it settle, and shut it down.

    Returns:
        The seconds to the answer, and how systemd divides its part of them.
    """
    with Machine.start(config, paused=True) as machine:
        started = time.monotonic()
        machine.qmp.execute("cont")
        hosts.wait_for_answer(f"http://127.0.0.1:{port}/")
        seconds = time.monotonic() - started
        ssh = hosts.shell(config.folder)
        hosts.settle(ssh)
        parts = ssh.run(["systemd-analyze", "time"], seconds=60, check=False).text.splitlines()
        machine.powerdown(STOP_SECONDS)
    return seconds, parts[0] if parts else ""


def main() -> int:
    """Boot machines and print medians."""
    parser = argparse.ArgumentParser(prog="bench/boot", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--runs", type=figures.positive, default=3, metavar="N", help="machines to boot twice (default: 3)"
    )
    arguments = parser.parse_args()
    release = hosts.release_folder("boot", RELEASE)
    shutil.copyfile(hosts.make_site(), release.with_name(hosts.SITE.name))
    built = hosts.build(release)
    before = figures.load()
    first: list[float] = []
    later: list[float] = []
    lines: list[str] = []
    accelerator = ""
    for _ in range(arguments.runs):
        folder, port = hosts.fresh_folder("boot-machine"), free_port()
        for kind, samples in (("first", first), ("later", later)):
            config = hosts.machine(
                built,
                folder,
                declaration=DECLARATION if kind == "first" else None,
                ports={port: 8080},
                direct=False,
                memory=1024,
            )
            accelerator = config.accelerator.name
            seconds, parts = boot(config, port)
            samples.append(seconds)
            lines.append(f"{kind} {seconds:.1f} s: {parts}")
            print(lines[-1], file=sys.stderr, flush=True)
    report = figures.Report(
        title="Start of the firmware to an answer of the published workload (OVMF, systemd-boot)",
        figures=(
            figures.median("first boot", first),
            figures.median("later boot", later),
            figures.ratio("later to first", sorted(later)[len(later) // 2], sorted(first)[len(first) // 2]),
        ),
        lines=tuple(lines),
        conditions=figures.conditions(before, f"accelerator {accelerator}, 2 processors, 1 GiB"),
    )
    figures.show(report, as_json=arguments.json)
    return 0
