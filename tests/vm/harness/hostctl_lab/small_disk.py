"""A whole disk of ours in a few MiB, made by the usual tools: GPT, ESP, two slots with verity, signed kernel images.

Its kernels boot nothing; to all that is judged offline it is a host's disk.
"""

from __future__ import annotations

import json
import random
import re
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hostctl_qemu.gpt import Partition, read_gpt
from hostctl_qemu.view import open_disk

from hostctl.boot.slots import TYPE_ESP, TYPE_ROOT, TYPE_SIGNATURE, TYPE_VERITY
from hostctl.run import run

NAME = "tiny"
MIB = 1 << 20
ROOT_BYTES = 600 << 10  # two levels of hashes
ESP, ROOT_A, TREE_A, SIGNATURE_A, ROOT_B, TREE_B, SIGNATURE_B = range(7)
SIZES = (8, 1, 1, 1, 1, 1, 1)
TYPES = (TYPE_ESP, TYPE_ROOT, TYPE_VERITY, TYPE_SIGNATURE, TYPE_ROOT, TYPE_VERITY, TYPE_SIGNATURE)
CLUSTER_SECTORS = 2


def make_pe(sections: Mapping[str, bytes], machine: int = 0x8664) -> bytes:
    """Return a PE32+ file that can be signed, with these sections."""
    start, optional = 0x80, 112 + 16 * 8
    raw = -(-(start + 24 + optional + 40 * len(sections)) // 512) * 512
    place, virtual, table, body = raw, 0x1000, b"", b""
    for name, data in sections.items():
        padded = data.ljust(-(-len(data) // 512) * 512, b"\0")
        table += struct.pack("<8sIIII12xI", name.encode(), len(data), virtual, len(padded), place, 0x40000040)
        body += padded
        place += len(padded)
        virtual += -(-len(padded) // 0x1000) * 0x1000
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", start)
    head = head.ljust(start, b"\0") + struct.pack("<4sHH12xHH", b"PE\0\0", machine, len(sections), optional, 0x22E)
    fields = struct.pack("<HBBIIIII", 0x20B, 1, 0, 0, len(body), 0, 0x1000, 0x1000)
    fields += struct.pack("<QIIHHHHHHIIIIHH", 0, 0x1000, 512, 0, 0, 0, 0, 0, 0, 0, virtual, raw, 0, 10, 0)
    fields += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    return (head + fields + table).ljust(raw, b"\0") + body


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """A Secure Boot key and its certificate, PEM files."""

    key: Path
    certificate: Path

    @classmethod
    def make(cls, folder: Path) -> Keys:
        """Make a pair in a new folder."""
        folder.mkdir()
        keys = cls(key=folder / "db.key", certificate=folder / "db.crt")
        words: list[str | Path] = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=test",
            "-days",
            "3650",
        ]
        run([*words, "-keyout", keys.key, "-out", keys.certificate], timeout=60)
        return keys

    def sign(self, program: bytes, folder: Path) -> bytes:
        """Return an EFI program with a signature."""
        (folder / "unsigned").write_bytes(program)
        words: list[str | Path] = [
            "sbsign",
            "--key",
            self.key,
            "--cert",
            self.certificate,
            "--output",
            folder / "signed",
        ]
        run([*words, folder / "unsigned"], timeout=60)
        return (folder / "signed").read_bytes()


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release: root with its tree, signed kernel image, content of the signature partition."""

    version: str
    root: bytes
    tree: bytes
    root_hash: str
    uki: bytes
    signature: bytes

    @classmethod
    def make(cls, version: str, keys: Keys, folder: Path) -> Release:
        """Make one; its content depends on the version only."""
        root = random.Random(version).randbytes(ROOT_BYTES)  # noqa: S311 - reproducible, not secret
        (folder / "root").write_bytes(root)
        (folder / "tree").unlink(missing_ok=True)
        words = ["veritysetup", "format", f"--salt={'5a' * 32}", f"--uuid={uuid.UUID(int=1)}"]
        printed = run([*words, folder / "root", folder / "tree"], timeout=60).text
        found = re.search(r"^Root hash:\s+([0-9a-f]{64})$", printed, re.MULTILINE)
        assert found, printed
        return cls(
            version=version,
            root=root,
            tree=(folder / "tree").read_bytes(),
            root_hash=found[1],
            uki=keys.sign(unsigned_uki(version, found[1]), folder),
            signature=json.dumps({"rootHash": found[1], "signature": "AA=="}).encode(),
        )


def unsigned_uki(version: str, root_hash: str, machine: int = 0x8664) -> bytes:
    """Return a kernel image that says what ours say."""
    said = f'PRETTY_NAME="Tiny"\nIMAGE_ID={NAME}\nIMAGE_VERSION={version}\n'.encode()
    cmdline = f"roothash={root_hash} hostctl.blocks={ROOT_BYTES // 4096} quiet\0".encode()
    kernel = random.Random(version).randbytes(20000)  # noqa: S311 - reproducible, not secret
    return make_pe({".osrel": said, ".cmdline": cmdline, ".linux": kernel, ".initrd": b"initrd"}, machine)


class SmallDisk:
    """A raw image that is changed in place.

    Args:
        image: the file to make, with an empty ESP and two empty slots.
    """

    def __init__(self, image: Path) -> None:
        self.image = image
        with image.open("wb") as file:
            file.truncate((sum(SIZES) + 2) * MIB)
        self.labels = ["esp", *["_empty"] * 6]
        self.uuids = [str(uuid.UUID(int=0x100 + index)) for index in range(7)]
        self.write_table()
        self.esp = f"{image}@@{MIB}"
        words = ["mkfs.fat", "--invariant", "-F", "16", "-s", str(CLUSTER_SECTORS), f"--offset={MIB // 512}"]
        run([*words, image, str(SIZES[0] * 1024)], timeout=60)
        run(["mmd", "-i", self.esp, "::EFI", "::EFI/BOOT", "::EFI/Linux", "::EFI/systemd", "::loader"], timeout=60)

    def write_table(self) -> None:
        """Write the partition table anew, by labels and UUIDs."""
        lines, start = ["label: gpt", f"label-id: {uuid.UUID(int=2)}"], 1
        for size, kind, label, identity in zip(SIZES, TYPES, self.labels, self.uuids, strict=True):
            lines.append(
                f'start={start * MIB // 512}, size={size * MIB // 512}, type={kind}, uuid={identity}, name="{label}"'
            )
            start += size
        run(["sfdisk", "--quiet", "--wipe=never", self.image], stdin="\n".join(lines).encode(), timeout=60)

    def partition(self, index: int) -> Partition:
        """Return a partition of the table."""
        return read_gpt(open_disk(self.image)).partitions[index]

    def patch(self, offset: int, data: bytes) -> None:
        """Overwrite bytes of the image."""
        with self.image.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def flip(self, offset: int) -> None:
        """Change one bit."""
        with self.image.open("rb") as file:
            file.seek(offset)
            (byte,) = file.read(1)
        self.patch(offset, bytes((byte ^ 1,)))

    def fill(self, slot: int, release: Release) -> None:
        """Put a release into slot 0 or 1, without an entry."""
        first = (ROOT_A, ROOT_B)[slot]
        for index, data in enumerate((release.root, release.tree, release.signature)):
            self.patch(self.partition(first + index).start, data)
        name, halves = f"{NAME}_{release.version}", (release.root_hash[:32], release.root_hash[32:])
        self.labels[first : first + 3] = [name, f"{name}-verity", f"{name}-sig"]
        self.uuids[first : first + 2] = [str(uuid.UUID(half)) for half in halves]
        self.write_table()

    def put(self, path: str, data: bytes) -> None:
        """Write a file of the ESP."""
        source = self.image.with_suffix(".put")
        source.write_bytes(data)
        run(["mcopy", "-o", "-i", self.esp, source, f"::{path}"], timeout=60)

    def remove(self, path: str) -> None:
        """Remove a file of the ESP."""
        run(["mdel", "-i", self.esp, f"::{path}"], timeout=60)

    def rename(self, path: str, name: str) -> None:
        """Give a file of the ESP another name in its folder."""
        run(["mren", "-i", self.esp, f"::{path}", f"::{path.rpartition('/')[0]}/{name}"], timeout=60)

    def add_entry(self, release: Release, counter: str = "") -> str:
        """Write a release's kernel image and return its path."""
        path = f"EFI/Linux/{NAME}_{release.version}{counter}.efi"
        self.put(path, release.uki)
        return path
