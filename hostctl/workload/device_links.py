"""Lets a workload's users open devices that are named by links, as udev makes them, wherever these lead at this start.

A program of its own (``python3 -I -S device_links.pyc UIDS LINK=ACCESS…``), run before each start of a workload that
declares such a device. systemd-tmpfiles sets no permissions through a link, for good reason; so the link is followed
here, to nothing but a serial port right below /dev, and systemd-tmpfiles gets that name.
"""

from __future__ import annotations

import os
import re
import stat
import sys

TARGET = re.compile(r"/dev/tty(ACM|AMA|S|USB)[0-9]+")


class DeviceLinkError(OSError):
    """A link does not lead to a device that a workload may have."""


def followed(link: str) -> str:
    """Return the device node that a link leads to.

    Raises:
        DeviceLinkError: it is not there, or leads to anything else than a serial port.
    """
    node = os.path.realpath(link)
    try:
        kind = os.lstat(node).st_mode
    except OSError as error:
        raise DeviceLinkError(f"device {link} is not there; is it plugged in?") from error
    if TARGET.fullmatch(node) is None or not stat.S_ISCHR(kind):
        raise DeviceLinkError(f"device {link} leads to {node}, which is no serial port")
    return node


def rules(users: list[str], words: list[str]) -> str:
    """Return the lines of tmpfiles.d(5) that let ``users`` open what links lead to; each word is ``LINK=ACCESS``."""
    wanted = [word.rpartition("=")[::2] for word in words]
    return "".join(f"a+ {followed(link)} - - - - u:{user}:{access}\n" for link, access in wanted for user in users)


def main(users: str, words: list[str]) -> int:
    """Become systemd-tmpfiles, which reads the lines."""
    try:
        text = rules(users.split(","), words)
    except DeviceLinkError as error:
        print(error, file=sys.stderr)
        return 1
    reading, writing = os.pipe()
    os.write(writing, text.encode())  # a few lines, which a pipe holds
    os.close(writing)
    os.dup2(reading, 0)
    return os.execv("/usr/bin/systemd-tmpfiles", ["systemd-tmpfiles", "--create", "-"])  # noqa: S606 - a fixed program


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
