"""Finds the data that goes with the package: ``rootfs/`` and ``units/``, installed from a wheel or in a checkout."""

from __future__ import annotations

from pathlib import Path


def data_folder(name: str) -> Path:
    """Return the folder ``rootfs`` or ``units``.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    package = Path(__file__).parent
    for candidate in (package / "data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"hostctl's data folder {name!r} is missing beside {package}")
