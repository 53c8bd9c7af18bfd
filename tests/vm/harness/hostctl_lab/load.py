"""Asks a published port in the guest again and again, and tells which request got which answer, and which got none.

The program runs in the guest as units of its own, so a change of the network that it asks through does not end it: one
asks as the host itself, one out of the network of another workload, as any stranger does. Most requests are made at
once; some connect first and ask seconds later, so that a connection is there while the port is led elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hostctl_lab.host import Host

FOLDER = "/run/load"
PORT = 8080
FINISH_SECONDS = 900.0
PROGRAM = r"""
import json, os, socket, sys, threading, time
name, address, port, folder, rest = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
least = float("inf")
made, failed, lock = [], [], threading.Lock()

def ask(wait):
    with socket.create_connection((address, port), 60) as one:
        time.sleep(wait)
        one.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while part := one.recv(65536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    if head.split()[1:2] != [b"200"]:
        raise OSError(repr(data))
    return body.decode().strip()

def work(wait):
    while not (os.path.exists(folder + "/stop") and len(made) >= int(open(folder + "/stop").read() or 0)):
        time.sleep(rest)
        began = time.monotonic()
        try:
            answer = ask(wait)
        except (OSError, IndexError) as error:
            with lock:
                failed.append((began, repr(error)))
            continue
        with lock:
            made.append((began, time.monotonic(), answer, wait > 0))

workers = [threading.Thread(target=work, args=(wait,)) for wait in (0, 0, 2.0)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
first = {}
for began, ended, answer, _ in made:
    first[answer] = min(first.get(answer, ended), ended)
order = sorted(first, key=first.get)
# Nobody who begins after the first answer of the last one is answered by one before.
late = sum(began > first[order[-1]] and answer != order[-1] for began, _, answer, _ in made) if order else 0
report = {"requests": len(made) + len(failed), "failed": failed[:20], "failures": len(failed), "answers": order,
          "late": late, "slow": sum(slow for *_, slow in made)}
with open(f"{folder}/{name}.tmp", "w") as file:
    json.dump(report, file)
os.rename(f"{folder}/{name}.tmp", f"{folder}/{name}.json")
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What became of all requests; ``answers`` are in the order in which each was first given, over all askers."""

    requests: int
    failures: int
    failed: tuple[str, ...]
    answers: tuple[str, ...]
    late: int
    """Requests that began after the last answer was first given, and still got another."""
    slow: int
    """Requests whose connection was there for a while before they asked."""


def start(host: Host, workload: str, gateway: str, rest: float = 0.0) -> None:
    """Begin to ask, as the host and from the network of ``workload``, whose gateway is the host.

    With ``rest``, each asker waits so many seconds before each request, and leaves the machine time for other things.
    """
    host.run("systemctl", "stop", "load-own.service", "load-other.service", check=False)  # of a test that failed
    host.shell(f"rm -rf {FOLDER}; mkdir {FOLDER}")
    # The kernel remembers each connection for two minutes after its end; a small machine has room for 8192.
    host.shell("echo 131072 >/proc/sys/net/netfilter/nf_conntrack_max")
    host.text("tee", f"{FOLDER}/load.py", stdin=PROGRAM)
    run = ("systemd-run", "--quiet", "--collect")
    program = ("python3", "-I", f"{FOLDER}/load.py")
    network = f"--property=NetworkNamespacePath=/run/netns/workload-{workload}"
    host.text(*run, "--unit=load-own", *program, "own", "127.0.0.1", str(PORT), FOLDER, str(rest))
    host.text(*run, "--unit=load-other", network, *program, "other", gateway, str(PORT), FOLDER, str(rest))


def stop(host: Host, at_least: int = 0) -> Report:
    """Return what became of the requests, once there were enough of them from both."""
    host.text("tee", f"{FOLDER}/stop", stdin=str(at_least // 2))
    done = f"test -e {FOLDER}/own.json && test -e {FOLDER}/other.json"
    host.wait_for("all is asked", lambda: host.run("sh", "-c", done, check=False).status == 0, FINISH_SECONDS)
    reports = [json.loads(host.text("cat", f"{FOLDER}/{name}.json")) for name in ("own", "other")]
    return Report(
        requests=sum(each["requests"] for each in reports),
        failures=sum(each["failures"] for each in reports),
        failed=tuple(f"{moment:.3f}: {why}" for each in reports for moment, why in each["failed"]),
        answers=tuple(dict.fromkeys(answer for each in reports for answer in each["answers"])),
        late=sum(each["late"] for each in reports),
        slow=sum(each["slow"] for each in reports),
    )
