"""Kernel settings that are not declared any more, with files for the kernel's and for sysctl.d."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from hostctl.agent import kernel_settings
from hostctl.agent import machine as edge
from hostctl.agent.kernel_settings import Change
from hostctl.agent.machine import SystemdMachine
from hostctl.config.kernel import key_path
from hostctl.layout import HostLayout
from hostctl.run import Completed

KEEPALIVE = "net/ipv4/tcp_keepalive_time"
OURS = "etc/sysctl.d/50-hostctl.conf"


class Kernel:
    """A kernel's settings, and the part of systemd-sysctl that the tests need: plain settings of each file."""

    def __init__(self, layout: HostLayout, **settings: str) -> None:
        self.layout = layout
        for path, value in settings.items():
            self.put(f"proc/sys/{path}", f"{value}\n")

    def put(self, path: str, text: str) -> None:
        place = self.layout.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def value(self, path: str) -> str:
        return (self.layout.root / "proc/sys" / path).read_text().removesuffix("\n")

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        assert argv == ["/usr/lib/systemd/systemd-sysctl"]
        for folder in ("usr/lib/sysctl.d", "etc/sysctl.d"):
            for file in sorted((self.layout.root / folder).glob("*.conf")):
                for line in file.read_text().splitlines():
                    name, _, value = line.partition("=")
                    self.put(f"proc/sys/{key_path(name.strip())}", f"{value.strip()}\n")
        return Completed(argv=tuple(argv), status=0, stdout=b"", stderr=b"")


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    return HostLayout(root=tmp_path)


@pytest.fixture
def kernel(layout: HostLayout, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(layout, **{KEEPALIVE: "7200", "kernel/sysrq": "16", "net/ipv4/tcp_rmem": "4096\t131072\t6291456"})
    monkeypatch.setattr(edge, "run", kernel.run)
    return kernel


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ],
)
def test_the_first_separator_says_which_one_it_is(name: str, path: str) -> None:
    assert key_path(name) == path


def test_lines_of_a_file() -> None:
    text = "# no = 1\n; no = 1\n\n a.b=1\n-c.d = 2\ne.*.f = 3\n-e.x.f\na/../../etc/passwd = 1\nrubbish\n"
    wanted, left_out = kernel_settings.parse(text)
    assert (sorted(wanted), sorted(left_out)) == (["a/b", "c/d", "e/*/f"], ["e/x/f", "rubbish"])


def test_what_is_kept_and_what_is_written_back() -> None:
    kept = {"a": "1", "b": "2", "c": None, "d": "4"}
    assert kernel_settings.decide(kept, ["a", "new"], ["a", "d", "new"]) == Change(
        keep=("new",), restore={"b": "2"}, lost=("c",)
    )


def test_a_setting_that_is_not_declared_any_more_is_the_kernels_again(layout: HostLayout, kernel: Kernel) -> None:
    machine = SystemdMachine(layout)
    kernel.put(OURS, "net.ipv4.tcp_keepalive_time = 600\nnet.ipv4.tcp_rmem = 1 2 3\n")
    assert machine.apply_sysctl() == ()
    assert (kernel.value(KEEPALIVE), kernel.value("net/ipv4/tcp_rmem")) == ("600", "1 2 3")
    assert stat.S_IMODE(layout.kernel_settings.stat().st_mode) == 0o600
    kernel.put(OURS, "net.ipv4.tcp_keepalive_time = 700\n")
    assert machine.apply_sysctl() == ()
    assert (kernel.value(KEEPALIVE), kernel.value("net/ipv4/tcp_rmem")) == ("700", "4096\t131072\t6291456")
    (layout.root / OURS).rename(layout.root / "etc/sysctl.d/90-hostctl.conf")  # as a newer release calls it
    assert machine.apply_sysctl() == ()
    assert kernel.value(KEEPALIVE) == "700"
    (layout.root / "etc/sysctl.d/90-hostctl.conf").unlink()
    assert machine.apply_sysctl() == ()
    assert kernel.value(KEEPALIVE) == "7200"
    assert kernel_settings.read(layout) == {}


@pytest.mark.parametrize("name", ["kernel.sysrq", "kernel.sys*", "-kernel.sysrq"])
def test_what_the_release_sets_is_left_to_it(layout: HostLayout, kernel: Kernel, name: str) -> None:
    kernel.put("usr/lib/sysctl.d/60-hostctl.conf", "kernel.sysrq = 0\n" if name == "kernel.sysrq" else f"{name} = 0\n")
    kernel.put(OURS, "kernel.sysrq = 1\n")
    kernel_settings.bring(layout)
    kernel.put("proc/sys/kernel/sysrq", "1\n")
    (layout.root / OURS).unlink()
    assert kernel_settings.bring(layout) == ()
    assert kernel.value("kernel/sysrq") == "1"  # systemd-sysctl comes afterwards


def test_a_pattern_of_the_release_leaves_out_what_it_says(layout: HostLayout, kernel: Kernel) -> None:
    kernel.put("usr/lib/sysctl.d/60-hostctl.conf", "kernel.sys* = 0\n-kernel.sysrq\n")
    kernel.put(OURS, "kernel.sysrq = 1\n")
    kernel_settings.bring(layout)
    kernel.put("proc/sys/kernel/sysrq", "1\n")
    (layout.root / OURS).unlink()
    assert kernel_settings.bring(layout) == ()
    assert kernel.value("kernel/sysrq") == "16"


def test_a_file_hides_another_of_the_same_name(layout: HostLayout, kernel: Kernel) -> None:
    kernel.put("usr/lib/sysctl.d/60-hostctl.conf", "kernel.sysrq = 0\n")
    kernel.put("etc/sysctl.d/60-hostctl.conf", "")
    (layout.root / "etc/sysctl.d/99-gone.conf").symlink_to("nowhere")
    kernel.put(OURS, "kernel.sysrq = 1\n")
    assert kernel_settings.bring(layout) == ()
    kernel.put("proc/sys/kernel/sysrq", "1\n")
    (layout.root / OURS).unlink()
    kernel_settings.bring(layout)
    assert kernel.value("kernel/sysrq") == "16"


def test_what_cannot_be_read_or_written_is_told(layout: HostLayout, kernel: Kernel) -> None:
    kernel.put(OURS, "net.ipv4.route.flush = 1\nnet.ipv4.tcp_keepalive_time = 600\n")
    (note,) = kernel_settings.bring(layout)
    assert note.startswith("kernel setting net/ipv4/route/flush cannot be read")
    assert kernel_settings.bring(layout) == ()  # it was told
    kernel.put("proc/sys/net/ipv4/route/flush", "1\n")
    place = layout.root / "proc/sys" / KEEPALIVE
    place.unlink()
    place.mkdir()  # which root cannot write either
    (layout.root / OURS).unlink()
    notes = kernel_settings.bring(layout)
    assert [note.partition(" stays as it is until the host restarts: ")[::2] for note in notes] == [
        (f"kernel setting {KEEPALIVE}", "Is a directory"),
        ("kernel setting net/ipv4/route/flush", "it is not known what it was"),
    ]
    assert kernel_settings.bring(layout) == ()


def test_a_torn_file_is_as_none(layout: HostLayout, kernel: Kernel) -> None:
    layout.kernel_settings.parent.mkdir(parents=True)
    layout.kernel_settings.write_text("{")
    assert kernel_settings.bring(layout) == ()
    assert kernel_settings.read(layout) == {}
