"""Commands and files over OpenSSH's client: one key and one shared connection per run folder.

Host keys are not checked: the machines are ours, on 127.0.0.1, and have fresh keys at each first boot.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.run import CommandTimeoutError, Completed, failure, run

SSH_FAILED = 255  # ssh(1): the connection, not the command, failed
ATTEMPT_SECONDS = 20.0
PAUSE_SECONDS = 0.5
DENIED_SECONDS = 6.0  # sshd_config(5), PerSourcePenalties: a failed login is held against its sender for 5 s


class SshError(HostctlError):
    """A machine cannot be reached over SSH."""

    id = "ssh-unreachable"


def make_key(folder: Path) -> str:
    """Return the public key in ``folder``, which is made with its private half when it is not there yet."""
    key = folder / "id_ed25519"
    if not key.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hostctl-vm", "-f", key], timeout=30)
    return key.with_suffix(".pub").read_text("ascii").strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ssh:
    """The way to a machine: its forwarded port on 127.0.0.1, and the folder with the key."""

    folder: Path
    port: int
    user: str = "root"

    def options(self) -> list[str]:
        """Return the options that every call has."""
        values = {
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": _quoted(self.folder / "known_hosts"),
            "LogLevel": "ERROR",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "5",
            "ControlMaster": "auto",
            "ControlPersist": "60",
            "ControlPath": "/tmp/hostctl-ssh-%C",  # noqa: S108 - %C is a hash; a run folder may be too long for a socket
        }
        words = ["-F", "none", "-i", str(self.folder / "id_ed25519")]
        return words + [word for name, value in values.items() for word in ("-o", f"{name}={value}")]

    def command(self, argv: Sequence[str] = ()) -> list[str]:
        """Return the arguments that run ``argv`` over there, or a login shell."""
        words = ["ssh", *self.options(), "-p", str(self.port), f"{self.user}@127.0.0.1"]
        return [*words, "--", shlex.join(argv)] if argv else words

    def run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, seconds: float = 60.0, check: bool = True
    ) -> Completed:
        """Run a command over there and return what it printed.

        Args:
            argv: the command's words, quoted for the shell over there.
            stdin: bytes for its standard input.
            seconds: how long it may take.
            check: raise when it fails.

        Raises:
            SshError: the machine cannot be reached.
            CommandError: the command failed, or took too long.
        """
        done = run(self.command(argv), stdin=stdin, timeout=seconds, check=False)
        if done.status == SSH_FAILED:
            raise SshError(
                f"no connection to {self.user}@127.0.0.1:{self.port}", details=done.stderr.decode("utf-8", "replace")
            )
        if check and done.status:
            raise failure(argv, done.status, done.stderr or done.stdout)
        return done

    def wait_ready(self, seconds: float) -> None:
        """Return once commands can be run.

        QEMU itself accepts connections to the forwarded port and holds them until the guest answers, so that an
        attempt waits for the guest by itself; one that the guest refused is repeated, after a longer pause when it
        was the login that failed: a server that sees many of those stops listening.

        Raises:
            SshError: none could be run within ``seconds``; carries the reason of the last attempt.
        """
        end = time.monotonic() + seconds
        last = "no attempt"
        while (left := end - time.monotonic()) > 0:
            try:
                self.run(["true"], seconds=min(ATTEMPT_SECONDS, left))
            except (SshError, CommandTimeoutError) as error:
                last = error.details or error.brief
                pause = DENIED_SECONDS if "Permission denied" in last else PAUSE_SECONDS
                time.sleep(min(pause, max(0.0, end - time.monotonic())))  # between attempts, not a wait for one
            else:
                return
        raise SshError(f"port {self.port} gave no SSH session within {seconds:g} s", details=last)

    def put(self, source: Path, target: str, seconds: float = 120.0) -> None:
        """Copy the file ``source`` to the path ``target`` over there."""
        self.run(["dd", f"of={target}", "status=none"], stdin=source.read_bytes(), seconds=seconds)

    def get(self, source: str, target: Path, seconds: float = 120.0) -> None:
        """Copy the file ``source`` over there to the path ``target`` here."""
        target.write_bytes(self.run(["cat", "--", source], seconds=seconds).stdout)


def _quoted(path: Path) -> str:
    """Return a path for ssh_config(5), which splits at spaces and expands % and quotes."""
    return '"' + str(path).replace("%", "%%") + '"'
