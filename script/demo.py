"""The demonstration behind ``script/demo``: only commands that a user would type, each with what it shows.

It ends with exit status 0 only if everything that it says was seen to happen, and it leaves a machine that
``hostctl vm run`` starts again.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples/demo"
WORK = ROOT / "build/demo"
HOSTCTL = str(ROOT / ".venv/bin/hostctl")
KEYS = WORK / "keys"  # where `hostctl build` looks for them
REPOSITORY, BUILD = WORK / "repository", WORK / "release-1"
SITE_PORT, REPOSITORY_PORT = 28080, 28088  # on loopback; the declaration names the second
SITE = f"http://127.0.0.1:{SITE_PORT}/"
BOOT_SECONDS = 600.0  # of a slow machine without KVM, firmware and health included
BOOTS_BACK = 4  # a release has three tries, and then the former one boots
POLL_SECONDS = 2.0
STARTED = time.monotonic()


class DemoError(Exception):
    """Something did not happen that the demonstration shows."""


def say(text: str) -> None:
    """Print a line that tells what was seen, with the time since the start."""
    line = f"[{time.monotonic() - STARTED:5.0f} s] {text}"
    print(f"\n\x1b[1m{line}\x1b[0m" if sys.stdout.isatty() else f"\n{line}", flush=True)


def shown(path: Path) -> Path:
    """Return a path as a user in the checkout would write it."""
    return path.relative_to(ROOT)


def hostctl(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run hostctl on this machine, visibly."""
    print("$ hostctl", *words, flush=True)
    return subprocess.run([HOSTCTL, *map(str, words)], check=check, text=True, cwd=ROOT)


def on_host(*words: str, stdin: Path | None = None, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command on the host."""
    if not quiet:
        print("web-1#", *words, f"< {stdin.name}" if stdin else "", flush=True)
    source = stdin.open() if stdin else subprocess.DEVNULL
    argv = [HOSTCTL, "vm", "ssh", str(BUILD), "--", *words]
    done = subprocess.run(argv, stdin=source, capture_output=True, text=True, check=False, cwd=ROOT)
    if not quiet:
        print(done.stdout + done.stderr, end="", flush=True)
    return done


def wait_for(what: str, seen: Callable[[], bool], seconds: float = BOOT_SECONDS) -> None:
    """Wait until ``seen`` says so; the machine under emulation has no event to tell from outside."""
    end = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > end:
            raise DemoError(f"waited {seconds:.0f} s for this: {what}")
        time.sleep(POLL_SECONDS)


def site() -> str:
    """Return the page that the workload serves, or nothing."""
    try:
        with urllib.request.urlopen(SITE, timeout=5) as answer:  # noqa: S310 - a fixed address
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError, ValueError):
        return ""


def status() -> dict[str, object]:
    """Return what the host says of itself, or nothing while it cannot be asked."""
    done = on_host("hostctl", "status", "--json", quiet=True)
    try:
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}
    except ValueError:
        return {}


def history() -> list[dict[str, str]]:
    """Return the host's history."""
    done = on_host("hostctl", "history", "--json", quiet=True)
    try:
        return list(json.loads(done.stdout)) if done.returncode == 0 else []
    except ValueError:
        return []


def happened(event: str, version: str) -> bool:
    """Tell whether the host's history holds an event."""
    return any((row["event"], row["version"]) == (event, version) for row in history())


def on_release(version: str) -> bool:
    """Tell whether the host runs a release."""
    return status().get("release") == version


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """Serve the repository's static files, as any web server would."""
    words = [HOSTCTL, "repo", "serve", "--repository", str(folder), "--listen", f"127.0.0.1:{REPOSITORY_PORT}", "--log"]
    with (WORK / "server.log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        try:
            yield
        finally:
            server.terminate()


def compose() -> None:
    """Make keys, an image, a lock, and three releases."""
    if not (KEYS / "tuf/channel-stable.pem").exists():  # also those that an older hostctl left
        shutil.rmtree(KEYS, ignore_errors=True)
        hostctl("keys", "init", shown(KEYS))
    hostctl("repo", "init", "--repository", shown(REPOSITORY), "--keys", shown(KEYS))
    hostctl("image", "build", "examples/site/image.yaml", "-o", shown(WORK / "site.oci.tar"))
    hostctl("lock", shown(WORK / "release-1.yaml"))
    for number, what in (("1", ""), ("2", ""), ("3", ", which is broken")):
        folder = WORK / f"release-{number}"
        hostctl("build", shown(WORK / f"release-{number}.yaml"), "-o", shown(folder))
        say(f"composed release {number}{what}")


def boot() -> None:
    """Boot release 1 and see its workload answer from outside."""
    hostctl("vm", "run", shown(BUILD), "--config", shown(WORK / "host.yaml"), "--port", f"{SITE_PORT}:8080", "--detach")
    wait_for("the workload answers", lambda: bool(site()))
    say(f"booted release 1, and the declared nginx workload answers at {SITE}:")
    print(site())
    wait_for("release 1 is blessed", lambda: happened("blessed", "1"))
    on_host("hostctl", "status")
    on_host("hostctl", "ps")


def publish(number: int) -> None:
    """Publish a release with a delta from the one before, and say how large that is."""
    before, where = shown(WORK / f"release-{number - 1}"), ("--repository", shown(REPOSITORY), "--keys", shown(KEYS))
    hostctl("publish", shown(WORK / f"release-{number}"), *where, "--delta-from", before)
    words = [HOSTCTL, "repo", "stats", "--repository", str(REPOSITORY), "--json"]
    releases = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)["releases"]
    full, delta, *_ = next(one["ways"] for one in releases if one["version"] == str(number))
    percent = 100 * delta["bytes"] / full["bytes"]
    say(f"published release {number}: {full['bytes']} bytes in full, {delta['bytes']} as a delta ({percent:.2f} %)")


def update() -> None:
    """Take release 2 and keep it."""
    publish(2)
    require(on_host("hostctl", "update", "--reboot").returncode in (0, 255), "the update to release 2 is staged")
    wait_for("release 2 is blessed", lambda: on_release("2") and happened("blessed", "2"))
    wait_for("the workload answers", lambda: bool(site()))
    say("updated to release 2, rebooted, blessed, and the workload answers")
    on_host("hostctl", "status")


def come_back() -> None:
    """Try release 3, which cannot work, and see the host come back."""
    publish(3)
    require(on_host("hostctl", "update", "--reboot").returncode in (0, 255), "the update to release 3 is staged")
    wait_for("release 3 is given up", lambda: happened("bad", "3") and on_release("2"), BOOTS_BACK * BOOT_SECONDS)
    wait_for("the workload answers", lambda: bool(site()))
    say("tried release 3, which failed its health check, and came back to 2 by itself")
    on_host("hostctl", "status")
    on_host("hostctl", "history")
    on_host("hostctl", "update")


def change() -> None:
    """Change the declaration live, and see a wrong one refused."""
    require(on_host("hostctl", "apply", "-", stdin=WORK / "host-changed.yaml").returncode == 0, "the change applies")
    wait_for("the workload answers", lambda: bool(site()))
    say("applied a changed declaration to the running host")
    refused = on_host("hostctl", "apply", "-", stdin=WORK / "host-wrong.yaml")
    require(refused.returncode == 2 and "memroy" in refused.stderr, "the wrong declaration is refused")
    say("refused a declaration with a mistake, naming its line; the machine is as it was")


def require(condition: bool, what: str) -> None:
    """Stop unless ``condition`` holds."""
    if not condition:
        raise DemoError(f"this did not happen: {what}")


def require_free(*ports: int) -> None:
    """Stop early if a port is taken, rather than after the releases are composed."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise DemoError(f"port {port} on 127.0.0.1 cannot be used: {error.strerror}") from error


def main() -> int:
    """Run the demonstration."""
    shutil.copytree(EXAMPLES, WORK, dirs_exist_ok=True)
    for folder in (REPOSITORY, BUILD / "vm"):
        shutil.rmtree(folder, ignore_errors=True)
    REPOSITORY.mkdir()
    try:
        require_free(SITE_PORT, REPOSITORY_PORT)
        compose()
        with served(REPOSITORY):
            boot()
            update()
            come_back()
            change()
    except (DemoError, subprocess.CalledProcessError) as error:
        print(f"\nerror: {error}\nhint: the machine's console is in {BUILD / 'vm/serial.log'}", file=sys.stderr)
        return 1
    finally:
        if (BUILD / "vm").exists():
            hostctl("vm", "stop", shown(BUILD), check=False)
    say(f"done. Start the machine again: .venv/bin/hostctl vm run {BUILD.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
