"""The health check of one workload: run once by a timer while the workload runs, by the bare interpreter.

A program of its own (``python3 -I -S probe.pyc NAME CHECK``) that imports as little as it can, since it runs every few
seconds: the interpreter's own start is most of what it takes. So :mod:`socket` and :mod:`json` are too much; CHECK has
lines of a key and a value. It tries once, writes ``healthy`` or ``unhealthy`` to ``/run/hostctl/health/NAME`` with the
run that it is said of (when the workload's process id was written, in nanoseconds), and after enough failures in a row
lets systemd restart the workload. A replica gets new connections from the first check that passes on until it is found
unhealthy: the packet filter is told when that changes, and only then. What the workload answers is not trusted: of a
response only the first line is read, within one time for all; the checks of the machine are made by the same functions.
Called with ``--wait NAME`` it waits until a check has passed, of any instance; with ``--there PATH``, until there is
such a file.
"""

from __future__ import annotations

import _socket
import os
import sys
import time

RUNTIME = "/run/hostctl"
JOURNAL = "/run/systemd/journal/socket"
CGROUPS = "/sys/fs/cgroup"
END_PAUSE = 2.0  # seconds that a killed command has to be gone
WAIT_PAUSE = 0.3  # seconds between two looks at what the last check said
HOST_NETWORK = "/proc/1/ns/net"  # the check runs in the workload's
TABLE = ("inet", "hostctl")
STATUS_BYTES = 256  # of an answer's first line
INSTANCES = ("", ".a", ".b")  # hostctl.workload.instance
TLS_BYTES, TLS_PIECE = 1 << 18, 1 << 12  # that are read for it over TLS: of all, and at once


class Check:
    """One check as the bundle's health.check holds it; times in seconds."""

    __slots__ = ("chain", "join", "kind", "restart", "retries", "serve", "start_period", "target", "timeout")

    def __init__(self, text: str) -> None:
        lines = dict(line.split(" ", 1) for line in text.splitlines())
        self.kind, self.target = lines["kind"], lines["target"]
        self.timeout, self.start_period = float(lines["timeout"]), float(lines["start_period"])
        self.retries = int(lines["retries"])
        self.restart, self.join = lines["restart"] == "True", lines["join"] == "True"
        self.serve, self.chain = lines.get("serve", ""), lines.get("chain", "")


def decide(ok: bool, failures: int, age: float, check: Check) -> tuple[str, int, bool]:
    """Return what to write (nothing: leave what is there), the failures in a row so far, and whether to restart.

    Args:
        ok: whether the workload passed.
        failures: failures in a row before.
        age: seconds since the workload started.
        check: its limits.
    """
    if ok:
        return "healthy", 0, False
    if age < check.start_period:
        return "", 0, False
    if failures + 1 >= check.retries:
        return "unhealthy", 0, check.restart
    return "", failures + 1, False


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[host]:port``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def split_url(url: str) -> tuple[bool, str, int, str, str]:
    """Return of an http or https address whether it is https, its host, port, ``Host`` header and path with query."""
    scheme, _, rest = url.partition("://")
    rest = rest.partition("#")[0]
    ends = [position for position in (rest.find("/"), rest.find("?")) if position >= 0]
    authority, path = (rest[: min(ends)], rest[min(ends) :]) if ends else (rest, "")
    authority = authority.rpartition("@")[2]
    secure = scheme == "https"
    has_port = ":" in authority.rpartition("]")[2]
    host, port = split_address(authority) if has_port else (authority.strip("[]"), 443 if secure else 80)
    return secure, host, port, authority, path if path.startswith("/") else f"/{path}"


def status_of(line: bytes) -> int:
    """Return the status code of an HTTP response's first line, 0 if it is none (RFC 9112, section 4)."""
    words = line.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
        return 0
    return int(words[1])


def left(end: float) -> float:
    """Return how many seconds there are until then, for a socket, to which 0 would mean something else."""
    return max(0.001, end - time.monotonic())


def connect(host: str, port: int, timeout: float) -> _socket.socket:
    """Return a connection, as ``socket.create_connection`` does; each of the addresses gets its share of the time."""
    failure = OSError(f"{host} has no address")
    end = time.monotonic() + timeout
    # As bytes: a text would be encoded by a module for international names.
    name = host.encode() if host.isascii() else host
    addresses = _socket.getaddrinfo(name, port, 0, _socket.SOCK_STREAM)
    for done, (family, kind, protocol, _, address) in enumerate(addresses):
        made = _socket.socket(family, kind, protocol)
        try:
            made.settimeout(left(end) / (len(addresses) - done))
            made.connect(address)
        except OSError as error:
            made.close()
            failure = error
        else:
            return made
    raise failure


def try_http(url: str, timeout: float, *, verified: bool = False) -> tuple[bool, str]:
    """Ask for an address, following nothing; good is a status from 200 to 399.

    Args:
        url: the address.
        timeout: seconds for the whole of it but looking up the host's name.
        verified: whether the certificate of an https address has to be one that the host trusts, and for its name.
    """
    secure, host, port, authority, path = split_url(url)
    end = time.monotonic() + timeout
    request = f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: hostctl-health\r\nConnection: close\r\n\r\n"
    plain = connect(host, port, timeout)
    try:
        connection = _Secured(plain, host, end, verified) if secure else plain
        plain.settimeout(left(end))
        connection.sendall(request.encode("ascii", "replace"))
        received = b""
        while b"\n" not in received and len(received) < STATUS_BYTES:
            plain.settimeout(left(end))
            data = connection.recv(STATUS_BYTES)
            if not data:
                break
            received += data
    finally:
        plain.close()
    status = status_of(received.partition(b"\r\n")[0])
    return 200 <= status < 400, f"{url}: status {status}" if status else f"{url}: no HTTP answer"


class _Secured:
    """A connection over TLS. OpenSSL gets what has come piece by piece: it would read on as long as more comes."""

    __slots__ = ("_incoming", "_left", "_outgoing", "_plain", "_tls", "_until", "_wants", "_zero")

    def __init__(self, plain: _socket.socket, host: str, end: float, verified: bool) -> None:
        import ssl  # noqa: PLC0415 - 40 ms that only https needs

        # A workload that talks to itself may do so by a certificate that is not for this name.
        context = ssl.create_default_context() if verified else ssl._create_unverified_context()  # noqa: S323
        self._wants, self._zero = ssl.SSLWantReadError, (ssl.SSLZeroReturnError, ssl.SSLEOFError)
        self._plain, self._until, self._left = plain, end, TLS_BYTES
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                self._tls.do_handshake()
                break
            except self._wants:
                self._exchange()
            finally:
                self._send()

    def _send(self) -> None:
        data = self._outgoing.read()
        if data:
            self._plain.settimeout(left(self._until))
            self._plain.sendall(data)

    def _exchange(self) -> None:
        """Send what OpenSSL has to say, and give it what comes next."""
        self._send()
        self._plain.settimeout(left(self._until))
        data = self._plain.recv(TLS_PIECE)
        self._left -= len(data)
        if self._left < 0 or time.monotonic() > self._until:
            raise TimeoutError("timed out")
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def sendall(self, data: bytes) -> None:
        """Send it, little that it is."""
        self._tls.write(data)
        self._send()

    def recv(self, count: int) -> bytes:
        """Return what has come, nothing at the end."""
        while True:
            try:
                return bytes(self._tls.read(count))
            except self._wants:
                self._exchange()
            except self._zero:
                return b""


def try_tcp(address: str, timeout: float) -> tuple[bool, str]:
    """Connect to ``host:port``."""
    connect(*split_address(address), timeout).close()
    return True, f"{address}: accepts connections"


def try_exec(name: str, process: str, pid: int, timeout: float) -> tuple[bool, str]:
    """Run a command in the container, within the workload's own cgroup and so its limits.

    Args:
        name: the workload.
        process: path of the OCI process document.
        pid: the container's first process, on the host.
        timeout: seconds after which the command is killed.
    """
    import select  # noqa: PLC0415 - only here

    group = group_of(pid)
    pid_file = f"{RUNTIME}/health/.{name}.pid"
    try:  # noqa: SIM105 - contextlib is an import too many
        os.unlink(pid_file)  # noqa: PTH108 - so is pathlib; the number that a former check left is anybody's by now
    except FileNotFoundError:
        pass
    argv = ["crun", "--cgroup-manager=disabled", "exec", "--pid-file", pid_file, "--process", process, name]
    child = os.fork()
    if child == 0:
        try:
            with open(f"{CGROUPS}{group}/cgroup.procs", "w") as file:  # noqa: PTH123 - as above
                file.write("0")
            # What it prints on every good check is noise; what it complains of goes to the journal.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.execvp("crun", argv)  # noqa: S606 - no shell is what is wanted
        finally:
            os._exit(127)
    ended = os.pidfd_open(child)
    try:
        if select.select([ended], [], [], timeout)[0]:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return status == 0, f"the command ended with {status}"
        end(child, group, pid_file)
        select.select([ended], [], [], END_PAUSE)
        os.waitpid(child, os.WNOHANG)
        return False, f"the command did not end within {timeout:g} s"
    finally:
        os.close(ended)


def group_of(pid: int) -> str:
    """Return the cgroup of a process."""
    with open(f"/proc/{pid}/cgroup") as file:  # noqa: PTH123 - as above
        return next(line[3:].strip() for line in file if line.startswith("0::"))


def end(runtime: int, group: str, pid_file: str) -> None:
    """Kill a runtime that hangs, and what it has started, all in the workload's cgroup, where they would stay.

    The command is known by the file, or if that is not written yet, as the runtime's child. Numbers are not trusted: a
    process is held first, and then must be one of the workload's.

    Args:
        runtime: a child of this process.
        group: the workload's cgroup.
        pid_file: where the runtime writes the command's process id.
    """
    import signal  # noqa: PLC0415 - only where a check hangs, and it loads a lot

    os.kill(runtime, signal.SIGSTOP)  # so that it starts nothing more
    held = []
    for number in f"{_read(pid_file)} {_read(f'/proc/{runtime}/task/{runtime}/children')}".split():
        try:
            held.append(os.pidfd_open(int(number)))
            if f"{group_of(int(number))}/".startswith(f"{group.rstrip('/')}/"):
                signal.pidfd_send_signal(held[-1], signal.SIGKILL)
        except (OSError, ValueError, StopIteration):
            continue  # it has ended
    os.kill(runtime, signal.SIGKILL)
    for descriptor in held:
        os.close(descriptor)


def attempt(name: str, check: Check, pid: int) -> tuple[bool, str]:
    """Run the check once; every failure of it is an answer."""
    try:
        if check.kind == "http":
            return try_http(check.target, check.timeout)
        if check.kind == "tcp":
            return try_tcp(check.target, check.timeout)
        return try_exec(name, check.target, pid, check.timeout)
    except (OSError, ValueError, StopIteration) as error:
        return False, f"{check.target}: {error or type(error).__name__}"


def _write(path: str, text: str) -> None:
    """Replace a file at once."""
    with open(f"{path}.tmp", "w") as file:  # noqa: PTH123 - as above
        file.write(text)
    os.replace(f"{path}.tmp", path)  # noqa: PTH105 - as above


def _failures(path: str, run: str) -> int:
    """Return the failures in a row of this run of the workload."""
    try:
        with open(path) as file:  # noqa: PTH123 - as above
            former, count = file.read().split()
    except (OSError, ValueError):
        return 0
    return int(count) if former == run and count.isdigit() else 0


def join_network(pid: int) -> None:
    """Enter the network namespace of a process: that of a workload without a network has no name to join it by."""
    if sys.version_info >= (3, 12):
        descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        os.setns(descriptor, os.CLONE_NEWNET)
        os.close(descriptor)
    else:
        raise OSError("this interpreter cannot enter a network namespace")


def lead(serves: bool, check: Check) -> bool:
    """Lead new connections to this replica, or none; return whether the host's packet filter took that."""
    words = ["-j", "-f", check.serve] if serves else ["flush", "chain", *TABLE, check.chain]
    child = os.posix_spawnp("nsenter", ["nsenter", f"--net={HOST_NETWORK}", "nft", *words], os.environ)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def tell(name: str, said: str) -> None:
    """Note a change for ``hostctl events``, as :mod:`hostctl.agent.event_log` does; no journal costs no check."""
    workload, _, instance = name.partition(".")
    attributes = f'"health_status": "{said}"' + (f', "instance": "{instance}"' if instance else "")
    fields = (
        f"MESSAGE=workload {name} is {said}\nPRIORITY=5\nSYSLOG_IDENTIFIER=hostctl\nHOSTCTL_EVENT=1\n"
        f"HOSTCTL_ACTION=health_status\nHOSTCTL_TYPE=workload\nHOSTCTL_NAME={workload}\n"
        f"HOSTCTL_ATTRIBUTES={{{attributes}}}\n"
    )
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        channel.connect(JOURNAL)
        channel.send(fields.encode())
    except OSError:
        pass
    finally:
        channel.close()


def _read(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123 - as above
            return file.read()
    except OSError:
        return ""


def main(name: str, path: str, runtime: str = RUNTIME) -> int:
    """Check workload ``name`` by the file at ``path``."""
    with open(path) as file:  # noqa: PTH123 - as above
        check = Check(file.read())
    pid_file = f"{runtime}/pids/{name}"
    try:
        started = os.stat(pid_file)  # noqa: PTH116 - as above
        with open(pid_file) as file:  # noqa: PTH123 - as above
            pid = int(file.read())
        if check.join:
            join_network(pid)
    except (OSError, ValueError):
        return 0  # it is not up, or just going down: nothing to say of its health
    ok, detail = attempt(name, check, pid)
    run = str(started.st_mtime_ns)
    kept = f"{runtime}/health/.{name}"
    text, failures, restart = decide(ok, _failures(kept, run), time.time() - started.st_mtime, check)
    if not ok:
        print(detail, flush=True)
    _write(kept, f"{run} {failures}")
    said = f"{runtime}/health/{name}"
    changes = text and _read(said) != f"{text} {run}"
    if text:
        _write(said, f"{text} {run}")
    if changes and check.chain and not lead(ok, check):
        print("the packet filter cannot be told, which is tried again", flush=True)
        os.unlink(said)  # noqa: PTH108 - as above; the next check says it anew
    elif changes:
        tell(name, text)
    if restart:
        print(f"workload {name} is unhealthy and is restarted", flush=True)
        os.execvp("systemctl", ["systemctl", "restart", "--no-block", f"workload-{name}.service"])  # noqa: S606 - as above
    return 0


def is_healthy(name: str, runtime: str = RUNTIME) -> bool:
    """Tell whether the last check of this run of the workload has passed."""
    try:
        run = os.stat(f"{runtime}/pids/{name}").st_mtime_ns  # noqa: PTH116 - as above
        with open(f"{runtime}/health/{name}") as file:  # noqa: PTH123 - as above
            said, of = file.read().split()
    except (OSError, ValueError):
        return False
    return said == "healthy" and of == str(run)


def wait(name: str, runtime: str = RUNTIME, pause: float = WAIT_PAUSE) -> int:
    """Return once the workload is healthy, whatever its instance is called, by the checks that its timer makes."""
    while not any(is_healthy(name + letter, runtime) for letter in INSTANCES):
        time.sleep(pause)
    return 0


def wait_for_file(path: str, pause: float = WAIT_PAUSE) -> int:
    """Return once there is a file at ``path``."""
    while not os.path.exists(path):  # noqa: PTH110 - as above
        time.sleep(pause)
    return 0


def run(words: list[str]) -> int:
    """Do what the arguments say."""
    if words[0] == "--wait":
        return wait(words[1])
    return wait_for_file(words[1]) if words[0] == "--there" else main(words[0], words[1])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
