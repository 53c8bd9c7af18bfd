"""What `hostctl run` and `create` are told to run: Docker's options, as settings of host.yaml."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hostctl.errors import UsageError

MODES = {"none": "none", "host": "host", "private": "private", "bridge": "private", "default": "private"}
# Docker's options for tmpfs that hold in any case; what is left is a size, a mode, and exec.
GIVEN = frozenset({"rw", "noexec", "nosuid", "nodev"})
REFUSED: Mapping[str, str] = {
    "--interactive": "a workload has no standard input: run it with -d, then `hostctl exec -it NAME -- sh`",
    "--tty": "a workload has no terminal: run it with -d, then `hostctl exec -it NAME -- sh`",
    "--privileged": "nothing gets all privileges: --cap-add gives single capabilities, host.yaml devices",
    "--device": "devices are declared in host.yaml, as in `devices: [/dev/kvm]`",
    "--mount": "-v NAME:/PATH[:ro] mounts a volume, --tmpfs /PATH memory",
    "--publish-all": "name each port, as in -p 8080:80",
    "--link": "workloads of one network find each other by name: --network NAME",
}
_SHORT = {"--interactive": "-i", "--tty": "-t", "--publish-all": "-P"}
_SINGLE = ("--interactive", "--tty", "--privileged", "--publish-all")


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is run."""
    parser.add_argument("--name", default="", metavar="NAME", help="after run-; made up by default")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set a variable, or pass one on"
    )
    parser.add_argument(
        "--env-file", action="append", default=[], type=Path, metavar="FILE", help="variables, one a line"
    )
    parser.add_argument("-p", "--publish", action="append", default=[], metavar="HOST:PORT", help="publish a port")
    parser.add_argument("-v", "--volume", action="append", default=[], metavar="NAME:/PATH", help="mount a volume")
    parser.add_argument(
        "--tmpfs", action="append", default=[], metavar="/PATH[:size=64M]", help="mount a file system in memory"
    )
    parser.add_argument(
        "--network",
        "--net",
        action="append",
        default=[],
        metavar="NETWORK",
        help="a declared one, none, host or private",
    )
    parser.add_argument("--hostname", metavar="NAME", help="the host name that it sees")
    parser.add_argument("-l", "--label", action="append", default=[], metavar="NAME=VALUE", help="a note for inspect")
    parser.add_argument("--memory", "-m", metavar="SIZE", help="most memory")
    parser.add_argument("--cpus", metavar="N", help="processor time in cores")
    parser.add_argument("--pids", "--pids-limit", metavar="N", help="most processes")
    parser.add_argument("-u", "--user", metavar="UID[:GID]", help="numbers")
    parser.add_argument("-w", "--workdir", metavar="/PATH", help="where its command starts")
    parser.add_argument("--read-only", action="store_true", help="the root file system cannot be written")
    parser.add_argument("--cap-add", action="append", default=[], metavar="CAPABILITY", help="give it a capability")
    parser.add_argument("--cap-drop", action="append", default=[], metavar="CAPABILITY", help="take one, or ALL, away")
    parser.add_argument(
        "--restart", default="no", metavar="POLICY", help="no (default), on-failure[:N], always or unless-stopped"
    )
    parser.add_argument(
        "--pull",
        choices=("missing", "always", "never"),
        help="ask the registry: if the image is not here (default), in any case, or not at all",
    )
    parser.add_argument("--init", action="store_true", help="with an init as process 1, as it always is")
    parser.add_argument("--entrypoint", metavar="PROGRAM", help="instead of the image's")
    for option in REFUSED:
        words = [_SHORT[option], option] if option in _SHORT else [option]
        if option in _SINGLE:
            parser.add_argument(*words, dest=option, action="store_true", help=argparse.SUPPRESS)
        else:
            parser.add_argument(*words, dest=option, help=argparse.SUPPRESS)
    parser.add_argument("image", help="registry/name:tag or registry/name@sha256:…")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="instead of the image's command")


def variables(words: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables; one without a value has that of the caller's environment, or is not set.

    Raises:
        UsageError: one has no name.
    """
    made: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise UsageError(f"--env {word}: a variable has a name", hint="NAME=VALUE, or NAME to pass one on")
        if equals or name in environment:
            made[name] = value if equals else environment[name]
    return made


def lines(path: Path) -> Sequence[str]:
    """Return the variables in a file: a line each, without those that are empty or begin with #.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--env-file {path} cannot be read", details=str(error)) from error
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def memory_mount(text: str) -> str:
    """Return a mount in memory as host.yaml has it, from what Docker takes."""
    path, colon, options = text.partition(":")
    kept = [word for word in options.split(",") if word not in GIVEN] if colon else []
    return f"{path}:{','.join(kept)}" if kept else path


def _networks(names: Sequence[str]) -> dict[str, object]:
    modes = [name for name in names if name in MODES]
    if modes and len(names) > 1:
        raise UsageError(f"--network {modes[0]} goes with no other", hint="several --network are declared networks")
    if modes:
        return {"network": MODES[modes[0]]}
    return {"networks": list(names)} if names else {}


def settings(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> dict[str, object]:
    """Return the workload's settings as host.yaml has them.

    Raises:
        UsageError: an option that there is not here, or one that says nothing.
    """
    given = vars(arguments)
    for option, hint in REFUSED.items():
        if given.get(option):
            raise UsageError(f"{option} is none of ours", hint=hint)
    from_files = [line for path in arguments.env_file for line in lines(path)]
    wanted = {
        "image": arguments.image,
        "command": [arguments.entrypoint] if arguments.entrypoint else None,
        "args": arguments.args or None,
        "env": variables([*from_files, *arguments.env], environment) or None,
        "ports": arguments.publish or None,
        "volumes": arguments.volume or None,
        "tmpfs": [memory_mount(each) for each in arguments.tmpfs] or None,
        "hostname": arguments.hostname,
        "labels": {name: value for name, _, value in (each.partition("=") for each in arguments.label)} or None,
        "memory": arguments.memory,
        "cpus": arguments.cpus,
        "pids": arguments.pids,
        "user": arguments.user,
        "working_dir": arguments.workdir,
        "read_only": arguments.read_only or None,
        "capabilities": arguments.cap_add or None,
        "cap_drop": arguments.cap_drop or None,
        "restart": arguments.restart,
        "pull_policy": arguments.pull,
        **_networks(arguments.network),
    }
    return _numbers({name: value for name, value in wanted.items() if value is not None})


def _numbers(wanted: dict[str, object]) -> dict[str, object]:
    """Return the settings with numbers as numbers where they are some: the declaration says what is wrong otherwise."""
    made = dict(wanted)
    for name, kind in (("pids", int), ("cpus", float)):
        try:
            made[name] = kind(str(wanted[name]))
        except (KeyError, ValueError):
            continue
    return made
