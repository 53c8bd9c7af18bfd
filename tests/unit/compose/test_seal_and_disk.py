"""Signing without time, the partition layout, and the order in which modules load."""

import base64
import datetime
import itertools
import json
from pathlib import Path, PurePosixPath

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from hostctl.compose.disk import MIB, DiskError, Partition, layout, make_esp, sfdisk_script, verity_size
from hostctl.compose.initrd import libraries
from hostctl.compose.kernel import is_left_out, module_closure
from hostctl.compose.seal import Verity, sign_root_hash, signature_partition
from hostctl.compose.tools import ToolsRoot
from hostctl.compose.uki import kernel_cmdline

HASH = "0123456789abcdef" * 4
VERITY = Verity(root_hash=HASH, salt="00", uuid="u")


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=9))
    certificate = builder.sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


def test_a_root_hash_is_signed_to_the_same_bytes_every_time(pair: tuple[bytes, bytes]) -> None:
    assert sign_root_hash(HASH, *pair) == sign_root_hash(HASH, *pair)
    assert sign_root_hash(HASH, *pair) != sign_root_hash(HASH[::-1], *pair)


def test_the_signature_partition_is_json_padded_to_blocks(pair: tuple[bytes, bytes]) -> None:
    signature = sign_root_hash(HASH, *pair)
    data = signature_partition(HASH, signature, pair[1])
    document = json.loads(data.rstrip(b"\0"))
    assert len(data) % 4096 == 0
    assert document["rootHash"] == HASH
    assert base64.b64decode(document["signature"]) == signature


def test_partition_uuids_are_the_halves_of_the_root_hash() -> None:
    assert VERITY.data_partition == "01234567-89ab-cdef-0123-456789abcdef"
    assert VERITY.tree_partition == "01234567-89ab-cdef-0123-456789abcdef"


def _layout(tmp_path: Path, *, root_bytes: int, root_size: int) -> tuple[Partition, ...]:
    files = {}
    for name in ("esp", "tree", "signature"):
        files[name] = tmp_path / name
        files[name].write_bytes(b"x")
    root = tmp_path / "root"
    with root.open("wb") as file:
        file.truncate(root_bytes)
    return layout(
        release="edge_1", verity=VERITY, root=root, esp_size=64 * MIB, root_size=root_size,
        esp=files["esp"], tree=files["tree"], signature=files["signature"],
    )  # fmt: skip


def test_partitions_follow_each_other_and_the_second_slot_is_empty(tmp_path: Path) -> None:
    parts = _layout(tmp_path, root_bytes=5, root_size=512 * MIB)
    assert [part.label for part in parts] == [
        "hostctl-esp", "edge_1", "edge_1-verity", "edge_1-sig", "_empty", "_empty", "_empty",
    ]  # fmt: skip
    assert all(one.start + one.size == two.start for one, two in itertools.pairwise(parts))
    assert 'name="edge_1-verity"' in sfdisk_script(parts, "id")
    assert verity_size(512 * MIB) == 8 * MIB


def test_a_root_that_does_not_fit_its_slot_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"root has 64.0 MiB") as caught:
        _layout(tmp_path, root_bytes=64 * MIB + 1, root_size=64 * MIB)
    assert "limits.root" in caught.value.hint


def test_boot_files_that_leave_no_room_for_an_update_are_refused(tmp_path: Path) -> None:
    image = tmp_path / "uki.efi"
    with image.open("wb") as file:
        file.truncate(33 * MIB)
    with pytest.raises(DiskError) as caught:
        make_esp(ToolsRoot(tmp_path), {PurePosixPath("a"): image}, tmp_path / "esp", size=64 * MIB, epoch=0)
    assert "limits.esp" in caught.value.hint


def test_modules_load_after_what_they_need() -> None:
    text = "a/dm-verity.ko: a/dm-bufio.ko a/dm-mod.ko\na/dm-mod.ko:\na/dm-bufio.ko: a/dm-mod.ko\n"
    names = [path.stem for path in module_closure(text, ["dm_verity", "absent", "dm-mod"])]
    assert names == ["dm-mod", "dm-bufio", "dm-verity"]


def test_left_out_modules_are_whole_folders() -> None:
    assert is_left_out(PurePosixPath("sound/core/snd.ko"))
    assert not is_left_out(PurePosixPath("drivers/net/cannot/x.ko"))


def test_libraries_are_read_from_the_loader() -> None:
    listing = "\tlinux-vdso.so.1 (0x00)\n\tlibz.so.1 => /lib/libz.so.1 (0x00)\n\t/lib64/ld-linux-x86-64.so.2 (0x0)\n"
    assert libraries(listing) == ("/lib/libz.so.1", "/lib64/ld-linux-x86-64.so.2")


def test_the_command_line_starts_with_the_root_hash_and_ends_with_the_release_s_words() -> None:
    words = kernel_cmdline("edge_1", HASH, 77000, ["console=ttyS1"]).split()
    assert words[0] == f"roothash={HASH}"
    assert words[1:3] == ["hostctl.release=edge_1", "hostctl.blocks=77000"]
    assert words[-1] == "console=ttyS1"
