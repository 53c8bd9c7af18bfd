"""The command line: one table of verbs, each a small module that is imported only when it is used.

A verb module has ``configure(parser)``, which adds its arguments, and ``run(arguments) -> int``, which
returns the exit code. Verbs that build are not on the host image, verbs of the host work anywhere its agent does.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hostctl import __version__
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.os_release import identity


@dataclass(frozen=True, slots=True)
class Verb:
    """A word of the command line and the module behind it."""

    name: str
    module: str
    summary: str
    on_host: bool = False
    """Asks or changes the machine that it is run on, which must be a host."""


VERBS: tuple[Verb, ...] = (
    Verb("build", "hostctl.cli.build", "compose a release into a disk image, payloads and a manifest"),
    Verb("lock", "hostctl.cli.lock", "pin every package of a release by version and sha256"),
    Verb("sbom", "hostctl.cli.sbom", "print the bill of materials of a built release"),
    Verb("keys", "hostctl.cli.keys", "make the keys that sign releases"),
    Verb("publish", "hostctl.cli.publish", "add a built release to a repository of static files"),
    Verb("repo", "hostctl.cli.repo", "make, look after and check a repository of releases"),
    Verb("image", "hostctl.cli.image", "look at, check and remove images; on a builder, build them"),
    Verb("vm", "hostctl.cli.vm", "run a built release in a virtual machine"),
    Verb("config", "hostctl.cli.config", "check and show declarations, print their schema"),
    Verb("status", "hostctl.cli.status", "what runs on this host: release, slots, generation, workloads", on_host=True),
    Verb("plan", "hostctl.cli.plan", "what applying a declaration would change, and why", on_host=True),
    Verb("apply", "hostctl.cli.apply", "make a declaration the one in force, or change nothing", on_host=True),
    Verb("auto-update", "hostctl.cli.auto_update", "renew the images of workloads that declare it", on_host=True),
    Verb("update", "hostctl.cli.update", "take the newest release of the channel into the other slot", on_host=True),
    Verb("hold", "hostctl.cli.hold", "keep this host on its release until further notice", on_host=True),
    Verb("rollback", "hostctl.cli.rollback", "go back to the release in the other slot", on_host=True),
    Verb("history", "hostctl.cli.history", "what was updated, blessed, taken back, and why", on_host=True),
    Verb("ps", "hostctl.cli.ps", "list workloads", on_host=True),
    Verb("logs", "hostctl.cli.logs", "print what workloads write, from the journal", on_host=True),
    Verb("events", "hostctl.cli.events", "what happens to workloads, as it comes or as it came", on_host=True),
    Verb("stats", "hostctl.cli.stats", "what workloads use, as a live table", on_host=True),
    Verb("top", "hostctl.cli.top", "list the processes of a workload", on_host=True),
    Verb("port", "hostctl.cli.port", "which ports of the host lead into a workload", on_host=True),
    Verb("inspect", "hostctl.cli.inspect", "everything known of workloads", on_host=True),
    Verb("exec", "hostctl.cli.exec", "run a command inside a workload", on_host=True),
    Verb("attach", "hostctl.cli.attach", "follow the output of a workload to its end", on_host=True),
    Verb("cp", "hostctl.cli.cp", "copy files into and out of a workload", on_host=True),
    Verb("diff", "hostctl.cli.diff", "what a workload has changed in its root file system", on_host=True),
    Verb("commit", "hostctl.cli.commit", "make an image of what a workload has written", on_host=True),
    Verb("export", "hostctl.cli.export", "write a workload's root file system as a tar archive", on_host=True),
    Verb("run", "hostctl.cli.run", "run a workload that is not declared, where host.yaml allows it", on_host=True),
    Verb("create", "hostctl.cli.create", "make a workload that is not declared and waits for its start", on_host=True),
    Verb("rename", "hostctl.cli.rename", "give a workload that was run another name", on_host=True),
    Verb("rm", "hostctl.cli.rm", "remove workloads that were run", on_host=True),
    Verb("start", "hostctl.cli.unit", "start workloads", on_host=True),
    Verb("stop", "hostctl.cli.unit", "stop workloads", on_host=True),
    Verb("restart", "hostctl.cli.unit", "restart workloads", on_host=True),
    Verb("kill", "hostctl.cli.unit", "send a signal to workloads", on_host=True),
    Verb("pause", "hostctl.cli.unit", "let nothing of workloads run for a while", on_host=True),
    Verb("unpause", "hostctl.cli.unit", "let paused workloads run on", on_host=True),
    Verb("limits", "hostctl.cli.limits", "show or change what a running workload may use", on_host=True),
    Verb("wait", "hostctl.cli.wait", "wait for workloads to end and print their exit status", on_host=True),
    Verb("network", "hostctl.cli.network", "the networks of the workloads, and who is on them", on_host=True),
    Verb("volume", "hostctl.cli.volume", "list, make, remove, save and restore volumes", on_host=True),
    Verb("metrics", "hostctl.cli.metrics", "this host's metrics, as Prometheus reads them", on_host=True),
    Verb("info", "hostctl.cli.info", "this host in numbers: workloads, images, kernel, memory", on_host=True),
    Verb("version", "hostctl.cli.version", "versions of hostctl and of what it runs on"),
    Verb("images", "hostctl.cli.images", "list the images on this host", on_host=True),
    Verb("secret", "hostctl.cli.secret", "store values of secrets, which are in no declaration", on_host=True),
    Verb("build", "hostctl.cli.container_build", "build an image from a Containerfile", on_host=True),
    Verb("search", "hostctl.cli.search", "look for images in a registry", on_host=True),
    Verb("pull", "hostctl.cli.pull", "bring an image from its registry", on_host=True),
    Verb("push", "hostctl.cli.push", "bring an image to a registry", on_host=True),
    Verb("save", "hostctl.cli.save", "write images to an archive", on_host=True),
    Verb("tag", "hostctl.cli.tag", "give an image a name more", on_host=True),
    Verb("rmi", "hostctl.cli.rmi", "take names of images away, and images with their last name", on_host=True),
    Verb("load", "hostctl.cli.load", "import images from an archive", on_host=True),
    Verb("login", "hostctl.cli.login", "store the password of a registry, encrypted", on_host=True),
    Verb("logout", "hostctl.cli.login", "forget the password of a registry", on_host=True),
    Verb("health", "hostctl.cli.health", "run the declared health checks", on_host=True),
    Verb("hostd", "hostctl.cli.hostd", "the agent behind D-Bus, started by systemd", on_host=True),
)


def parser_of(verb: Verb) -> argparse.ArgumentParser:
    """Return what understands the words after a verb."""
    module = importlib.import_module(verb.module)
    parser = argparse.ArgumentParser(
        prog=f"hostctl {verb.name}",
        description=verb.summary[0].upper() + verb.summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=getattr(module, "EXAMPLES", None),
    )
    module.configure(parser)
    parser.set_defaults(run=module.run, verb=verb.name)
    return parser


def _available() -> list[Verb]:
    """Return the verbs that are there; of a word that means one thing on a builder and another on a host, the first."""
    found: dict[str, Verb] = {}
    for verb in VERBS:
        if importlib.util.find_spec(verb.module) is not None:
            found.setdefault(verb.name, verb)
    return list(found.values())


def _overview(verbs: Sequence[Verb]) -> str:
    width = max(len(verb.name) for verb in verbs)
    lines = ["usage: hostctl VERB …", "", "Compose, run and update hosts that cannot drift.", "", "verbs:"]
    lines += [f"  {verb.name:<{width}}  {verb.summary}" for verb in verbs if verb.name != "hostd"]
    lines += ["", "`hostctl VERB --help` explains one, with examples.", "options: --version, --debug (log what is run)"]
    return "\n".join(lines)


def _report(error: HostctlError, *, as_json: bool) -> None:
    if as_json:
        document = {"error": error.id, "brief": error.brief, "details": error.details, "hint": error.hint}
        print(json.dumps(document), file=sys.stderr)
    else:
        print(error.render(), file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit code of the process.

    Args:
        arguments: the words after the program's name.
    """
    words = list(arguments)
    debug = bool(words) and words[0] == "--debug"
    if debug:
        words.pop(0)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", stream=sys.stderr)
    verbs = _available()
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(verbs))
        return 0 if words else EXIT_USAGE
    if words[0] == "--version":
        print(f"hostctl {__version__}")
        return 0
    verb = next((verb for verb in verbs if verb.name == words[0]), None)
    return _unknown(words[0], verbs) if verb is None else _run(verb, words[1:])


def _run(verb: Verb, words: Sequence[str]) -> int:
    parsed = parser_of(verb).parse_args(words)
    try:
        if verb.on_host:
            identity()
        code: int = parsed.run(parsed)
    except HostctlError as error:
        _report(error, as_json=getattr(parsed, "json", False))
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    return code


def _unknown(word: str, verbs: Sequence[Verb]) -> int:
    import difflib  # noqa: PLC0415 - only for this error, start-up counts

    near = difflib.get_close_matches(word, [verb.name for verb in verbs], 1)
    hint = f"did you mean `hostctl {near[0]}`?" if near else "`hostctl --help` lists the verbs"
    elsewhere = " on this machine" if any(verb.name == word for verb in VERBS) else ""
    print(f"error: there is no verb {word!r}{elsewhere}\nhint: {hint}", file=sys.stderr)
    return EXIT_USAGE
