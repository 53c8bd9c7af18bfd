"""Tells whether firmware with Secure Boot would start an EFI program: `sbverify`, remembered by content."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from pathlib import Path

from hostctl.run import run

SBVERIFY_SECONDS = 60.0
MACHINE_X64 = 0x8664


class SignatureChecker:
    """Verifies EFI programs against one certificate.

    Args:
        certificate: the one in the firmware's db, PEM.
    """

    def __init__(self, certificate: Path) -> None:
        self.certificate = certificate
        self._known: dict[bytes, str] = {}

    def problem(self, image: bytes) -> str:
        """Return why firmware would refuse an EFI program; empty if it would not."""
        key = hashlib.sha256(image).digest()
        if key not in self._known:
            self._known[key] = self._check(image)
        return self._known[key]

    def _check(self, image: bytes) -> str:
        if len(image) < 0x40 or image[:2] != b"MZ":
            return "it is no EFI program"
        (start,) = struct.unpack_from("<I", image, 0x3C)
        if image[start : start + 4] != b"PE\0\0":
            return "it is no EFI program"
        if struct.unpack_from("<H", image, start + 4)[0] != MACHINE_X64:
            return "it is for another architecture"
        with tempfile.NamedTemporaryFile(suffix=".efi") as file:
            file.write(image)
            file.flush()
            done = run(["sbverify", "--cert", self.certificate, file.name], timeout=SBVERIFY_SECONDS, check=False)
        if done.status:
            return f"its signature does not verify: {done.stderr.decode('utf-8', 'replace').strip()[-200:]}"
        return ""
