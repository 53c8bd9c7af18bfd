from __future__ import annotations

import pytest
from hostctl_qemu.terminal import typed


@pytest.mark.parametrize(
    ("data", "escaped", "result"),
    [
        (b"ls\r", False, (b"ls\r", False, False)),
        (b"a\x01", False, (b"a", True, False)),
        (b"x", True, (b"", False, True)),
        (b"a\x01x\x03", False, (b"a", False, True)),
        (b"\x01\x01x", False, (b"\x01x", False, False)),
        (b"\x01cx", False, (b"x", False, False)),
        (b"\x03", False, (b"\x03", False, False)),
    ],
)
def test_escape(data: bytes, escaped: bool, result: tuple[bytes, bool, bool]) -> None:
    assert typed(data, escaped) == result
