"""Kernel settings of the host: what the image fixes stays, what it sets as a default does not."""

from __future__ import annotations

import pytest

from hostctl.agent import render
from hostctl.config import kernel
from hostctl.data import data_folder

IMAGE = data_folder("rootfs") / "overlay/usr/lib/sysctl.d/60-hostctl.conf"


def test_what_no_declaration_changes_is_what_the_image_sets() -> None:
    lines = [line.split(" = ") for line in IMAGE.read_text().splitlines() if not line.startswith("#")]
    made = {name.replace(".", "/"): value for name, value in lines}
    same = {**kernel.FIXED}
    assert same.pop("net/ipv4/conf/all/forwarding") == same["net/ipv4/ip_forward"]
    assert same.items() <= made.items()
    assert not [*kernel.problems({name.replace("/", "."): "0" for name in made.keys() - same.keys()})]


def test_a_declared_setting_counts_for_more_than_what_any_release_sets() -> None:
    assert render.SYSCTL.rpartition("/")[2] > "99-protect-links.conf" > IMAGE.name


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("vm.memfd_noexec", "2", True),
        ("vm/memfd_noexec", "0", True),
        ("vm.memfd_noexec", " 1", False),
        ("net.ipv4.ip_forward", "1", False),
        ("net/ipv4/conf/all/forwarding", "0", True),
        ("net.ipv4.conf.eth0/1.forwarding", "0", False),
        ("kernel.kexec_load_disabled", "0", True),
        ("kernel.unprivileged_bpf_disabled", "2", True),
        ("user.max_user_namespaces", "0", True),
        ("user.max_user_namespaces", "10000", False),
        ("kernel.yama.ptrace_scope", "1", False),
    ],
)
def test_what_hosts_rely_on_is_refused_by_each_of_its_names(name: str, value: str, refused: bool) -> None:
    assert bool([*kernel.problems({name: value})]) is refused
