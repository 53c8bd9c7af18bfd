from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from hostctl_qemu.accelerator import tcg
from hostctl_qemu.emulator import Emulator
from hostctl_qemu.machine import (
    Direct,
    Firmware,
    Forward,
    MachineConfig,
    MachineError,
    arguments,
    connect,
    credential_path,
    credential_string,
    listen,
    option,
    prepare,
)

DIRECT = Direct(kernel=Path("/k"), initrd=Path("/i"), cmdline="console=ttyS0 a=b,c")


def config(folder: Path, boot: Direct | Firmware = DIRECT) -> MachineConfig:
    return MachineConfig(
        disk=folder / "disk,1.qcow2",
        folder=folder,
        boot=boot,
        accelerator=tcg("test", Emulator(argv=("qemu-system-x86_64",), version=(10, 0))),
        credentials={"hostctl.host": b"secret\0\n"},
        forwards=(Forward(host_port=10022, guest_port=22), Forward(host_port=10080, guest_port=80)),
    )


def following(words: list[str], name: str) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == name]


def test_credential_is_what_systemd_decodes() -> None:
    head, _, encoded = credential_string("a.b", b"\0x=\n").partition(b"=")
    assert head == b"io.systemd.credential.binary:a.b"
    assert base64.b64decode(encoded, validate=True) == b"\0x=\n"


def test_credentials_stay_out_of_the_arguments(tmp_path: Path) -> None:
    machine = config(tmp_path)
    prepare(machine)
    words = arguments(machine, qmp=3, serial=4)
    file = credential_path(machine, "hostctl.host")
    assert following(words, "-smbios") == [f"type=11,path={file}"]
    assert base64.b64encode(b"secret\0\n").decode() not in " ".join(words)
    assert file.read_bytes() == credential_string("hostctl.host", b"secret\0\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_commas_in_paths_are_doubled_but_not_in_the_command_line(tmp_path: Path) -> None:
    words = arguments(config(tmp_path), qmp=3, serial=4)
    assert any(f"logfile={option(tmp_path)}/serial.log" in word for word in following(words, "-chardev"))
    assert option("disk,1.qcow2") == "disk,,1.qcow2"
    assert following(words, "-append") == ["console=ttyS0 a=b,c"]


def test_ports_are_reachable_from_this_machine_only(tmp_path: Path) -> None:
    (netdev,) = following(arguments(config(tmp_path), qmp=3, serial=4), "-netdev")
    assert netdev == "user,id=net,hostfwd=tcp:127.0.0.1:10022-:22,hostfwd=tcp:127.0.0.1:10080-:80"


def test_watchdog_resets(tmp_path: Path) -> None:
    words = arguments(config(tmp_path), qmp=3, serial=4)
    assert "i6300esb" in following(words, "-device")
    assert following(words, "-action") == ["watchdog=reset"]


def test_secure_boot_protects_the_variables(tmp_path: Path) -> None:
    words = arguments(config(tmp_path, Firmware(secure_boot=True)), qmp=3, serial=4)
    assert following(words, "-M") == ["q35,smm=on"]
    assert "driver=cfi.pflash01,property=secure,value=on" in following(words, "-global")
    code, variables = following(words, "-drive")[:2]
    assert "readonly=on" in code
    assert "readonly" not in variables


def test_only_a_restored_machine_waits_for_memory(tmp_path: Path) -> None:
    assert "-incoming" not in arguments(config(tmp_path), qmp=3, serial=4)
    assert following(arguments(config(tmp_path), qmp=3, serial=4, incoming=True), "-incoming") == ["defer"]


def test_sockets_work_in_folders_with_long_names(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with listen(folder, "qmp.sock") as server, connect(folder, "qmp.sock") as client:
        client.sendall(b"hello")
        peer, _ = server.accept()
        with peer:
            assert peer.recv(5) == b"hello"


def test_nobody_listening_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no machine runs"):
        connect(tmp_path, "qmp.sock")
