"""The one way to run a program: an argument list, no standard input unless given, a clean environment.

Not found, timed out, ended by a signal and failed are told apart. Nothing here ever goes through a shell.
"""

from __future__ import annotations

import logging
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.errors import HostctlError

log = logging.getLogger(__name__)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT: Mapping[str, str] = {"PATH": PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
TAIL_LINES = 20


class CommandError(HostctlError):
    """A program could not do its work."""

    id = "command-failed"


class CommandNotFoundError(CommandError):
    """The program is not installed."""

    id = "command-not-found"


class CommandTimeoutError(CommandError):
    """The program ran past its deadline and was ended."""

    id = "command-timeout"


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """What a finished program left: its exit status and captured output."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Return standard output as text."""
        return self.stdout.decode("utf-8", "replace")


def tail(output: bytes, lines: int = TAIL_LINES) -> str:
    """Return the last ``lines`` lines of a program's output as text."""
    return "\n".join(output.decode("utf-8", "replace").splitlines()[-lines:])


def failure(argv: Sequence[str], status: int, stderr: bytes) -> CommandError:
    """Return the error for a program that ended with a non-zero ``status`` (negative: by a signal)."""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"failed with exit status {status}"
    return CommandError(f"{Path(argv[0]).name} {how}", details=f"{shlex.join(argv)}\n{tail(stderr)}")


def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program to its end and return what it printed.

    Args:
        argv: the program and its arguments.
        stdin: bytes for its standard input; none gives it an empty one.
        env: variables on top of :data:`ENVIRONMENT`.
        cwd: the folder it runs in.
        timeout: seconds after which it is killed.
        check: raise when the exit status is not zero.
        pass_fds: descriptors it inherits.

    Raises:
        CommandNotFoundError: the program is not installed.
        CommandTimeoutError: it did not end in time.
        CommandError: it ended with another status than zero, and ``check`` is set.
    """
    words = tuple(str(word) for word in argv)
    log.debug("run: %s", shlex.join(words))
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env={**ENVIRONMENT, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            check=False,
            pass_fds=tuple(pass_fds),
        )
    except FileNotFoundError as error:
        raise CommandNotFoundError(f"{words[0]} is not installed", details=shlex.join(words)) from error
    except subprocess.TimeoutExpired as error:
        raise CommandTimeoutError(
            f"{Path(words[0]).name} did not end within {timeout:g} s",
            details=f"{shlex.join(words)}\n{tail(error.stderr or b'')}",
        ) from error
    if check and done.returncode:
        raise failure(words, done.returncode, done.stderr or done.stdout)
    return Completed(argv=words, status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def watch(
    argv: Sequence[str | Path],
    tick: Callable[[], None],
    *,
    every: float,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end and call ``tick`` all the while; what ``tick`` raises ends the program and is raised.

    Args:
        argv: the program and its arguments.
        tick: looks at what the program has done so far.
        every: seconds between two calls of it.
        timeout: seconds after which the program is killed.
        env: variables on top of :data:`ENVIRONMENT`.

    Raises:
        CommandNotFoundError, CommandTimeoutError, CommandError: as :func:`run`.
    """
    words = tuple(str(word) for word in argv)
    log.debug("run: %s", shlex.join(words))
    end = time.monotonic() + timeout
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env={**ENVIRONMENT, **(env or {})}
            )
        except FileNotFoundError as error:
            raise CommandNotFoundError(f"{words[0]} is not installed", details=shlex.join(words)) from error
        try:
            while not _ended(process, every):
                tick()
                if time.monotonic() > end:
                    break
        except BaseException:
            process.kill()
            process.wait()
            raise
        late = process.poll() is None
        if late:
            process.kill()
            process.wait()
        stdout.seek(0)
        stderr.seek(0)
        done = Completed(argv=words, status=process.returncode, stdout=stdout.read(), stderr=stderr.read())
    if late:
        details = f"{shlex.join(words)}\n{tail(done.stderr)}"
        raise CommandTimeoutError(f"{Path(words[0]).name} did not end within {timeout:g} s", details=details)
    if done.status:
        raise failure(words, done.status, done.stderr or done.stdout)
    return done


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
