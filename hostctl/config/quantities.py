"""Value types that are numbers: sizes, times, permissions, processors. ``str()`` gives what one would write."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import ClassVar, Self

from hostctl.config.text import quoted

_BYTE_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_LONGEST = 366 * 86_400_000
_LARGEST = 1 << 60


class ByteSize(int):
    """A number of bytes, as in 512K, 64M, 64m, 1.5G: powers of 1024, as in systemd. ``int()`` is in bytes."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[0-9]{1,20}(\.[0-9]{1,6})?([KMGTkmgt](i?[Bb])?|[Bb])?"
    EXPECTED: ClassVar[str] = "a size, as in 64M or 1.5G"
    EXAMPLE: ClassVar[str] = "64M"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the size that ``text`` writes.

        Raises:
            ValueError: it is not a size, not a whole number of bytes, or not from 1 byte to 1 EiB.
        """
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        digits = re.match(r"[0-9.]+", text)
        number = digits.group() if digits else ""
        size = Decimal(number) * _BYTE_UNITS[text[len(number) :][:1].upper()]
        if size != int(size):
            raise ValueError(f"{quoted(text)} is not a whole number of bytes")
        if not 1 <= size <= _LARGEST:
            raise ValueError(f"{quoted(text)} is out of range: 1 byte to 1024T are")
        return cls(size)

    def __str__(self) -> str:
        """Return the size in the largest unit that divides it."""
        for unit in "TGMK":
            if self and self % _BYTE_UNITS[unit] == 0:
                return f"{self // _BYTE_UNITS[unit]}{unit}"
        return int.__repr__(self)


class Duration(float):
    """A time, as in 500ms, 10s, 2m, 1h30m or 1d. ``float()`` is in seconds."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?"
    EXPECTED: ClassVar[str] = "a time with its unit, as in 500ms, 10s, 2m or 1h30m"
    EXAMPLE: ClassVar[str] = "10s"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the time that ``text`` writes.

        Raises:
            ValueError: it is not a time, or not from 1 millisecond to 366 days.
        """
        if not text or re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        parts = re.findall(r"([0-9]+)([a-z]+)", text)
        total = sum(int(number) * _MILLISECONDS[unit] for number, unit in parts)
        if not 1 <= total <= _LONGEST:
            raise ValueError(f"{quoted(text)} is out of range: 1ms to 366d are")
        return cls(total / 1000)

    def __str__(self) -> str:
        """Return the time in whole units, largest first; systemd.time(7) reads it the same."""
        left = round(self * 1000)
        words = []
        for unit, length in _MILLISECONDS.items():
            count, left = divmod(left, length)
            if count:
                words.append(f"{count}{unit}")
        return "".join(words) or "0s"


class FileMode(int):
    """Permissions of a file, in octal, as in 0644. No set-user-ID, set-group-ID or sticky bit."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"(0|0o)?[0-7]{3}"
    EXPECTED: ClassVar[str] = "permissions in octal, as in 0644"
    EXAMPLE: ClassVar[str] = "0644"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the permissions that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        return cls(int(text[-3:], 8))

    def __str__(self) -> str:
        """Return four octal digits."""
        return f"{int(self):04o}"


class Cpus(float):
    """Processor time, in cores, as in 0.5: from 0.01 to 1024 in steps of 0.01."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[0-9]{1,4}(\.[0-9]{1,2})?"
    EXPECTED: ClassVar[str] = "a number of cores with at most two decimals, as in 0.5"
    EXAMPLE: ClassVar[str] = "0.5"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the number of cores that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        if not 0.01 <= float(text) <= 1024:
            raise ValueError(f"{quoted(text)} is out of range: 0.01 to 1024 are")
        return cls(text)

    @property
    def percent(self) -> int:
        """Hundredths of a core, the number before % in systemd's CPUQuota=."""
        return round(self * 100)

    def __str__(self) -> str:
        """Return the number without needless zeros."""
        return f"{float(self):.2f}".rstrip("0").rstrip(".")
