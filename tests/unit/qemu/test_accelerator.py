from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostctl_qemu import accelerator
from hostctl_qemu.accelerator import choose, judge
from hostctl_qemu.emulator import Emulator


def test_kernel_line_means_usable() -> None:
    assert judge(b"[    0.000000] Linux version 6.12.1 (x)") == "usable"


def test_silence_decides_nothing() -> None:
    assert judge(b"Booting from ROM...\r\nearly console in setup code") == "undecided"


def test_kvm_internal_error_means_broken() -> None:
    assert judge(b"early console\nKVM internal error. Suberror: 1\nRAX=0") == "broken"


@pytest.mark.parametrize("usable", [True, False])
def test_verdict_is_remembered_for_this_boot_only(tmp_path: Path, usable: bool) -> None:
    if not Path("/dev/kvm").exists():
        assert choose(tmp_path, tmp_path, lambda _kernel, _emulator: True).name == "tcg"
        return
    asked: list[Path] = []

    def answer(kernel: Path, _: Emulator) -> bool:
        asked.append(kernel)
        return usable

    names = {choose(tmp_path / "k", tmp_path, answer).name for _ in range(2)}
    assert names == {"kvm" if usable else "tcg"}
    assert len(asked) == 1
    (tmp_path / "kvm-verdict.json").write_text(json.dumps({"boot": "another", "usable": not usable}))
    choose(tmp_path / "k", tmp_path, answer)
    assert len(asked) == 2


def test_emulation_uses_every_core_where_that_is_safe() -> None:
    new, old = (Emulator(argv=("qemu",), version=version) for version in ((8, 1), (8, 0)))
    assert "tcg,thread=multi,tb-size=512" in accelerator.tcg("", new).arguments
    assert "tcg,thread=single,tb-size=512" in accelerator.tcg("", old).arguments
    assert accelerator.kvm("", old).program == ("qemu",)
