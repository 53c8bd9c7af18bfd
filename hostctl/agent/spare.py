"""A copy of the declaration in force outside of the state: with it a host whose state is lost is still reachable.

In the EFI system partition, which only root reads and which is not encrypted, as the declaration in the state is not.
The initrd hands it to a boot that has no state (rootfs/initrd/init). Losing it costs nothing else, so
failures are ignored.
"""

from __future__ import annotations

from contextlib import suppress

from hostctl import durable
from hostctl.agent import generation
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout

_MODE = 0o700  # all that FAT can say of a file under this mount's umask


def keep(layout: HostLayout) -> None:
    """Bring the copy up to date with the generation in force."""
    spare = layout.spare_declaration
    with suppress(HostctlError, OSError):
        stored = generation.current(layout)
        if stored is None or not (layout.esp / "EFI").is_dir():
            return
        for half in spare.parent.glob(f".{spare.name}.*.tmp"):  # written by one that was cut off
            half.unlink(missing_ok=True)
        text = stored.declaration.encode()
        if not spare.exists() or spare.read_bytes() != text:
            spare.parent.mkdir(exist_ok=True)
            durable.write_file(spare, text, mode=_MODE)
