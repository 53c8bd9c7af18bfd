"""The commands of the how-tos are run as they are written, in the order that they are written in."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hostctl.cli.main import main
from hostctl.repository.drafts import pending
from hostctl.repository.store import Store

from .conftest import Workshop

HOW_TO = Path(__file__).parents[3] / "docs/how-to"
ELSEWHERE = ("hostctl build", "hostctl repo serve", "rsync")
"""What needs packages, a server or another machine."""


def commands(name: str) -> list[str]:
    """Return the commands of a how-to, in order, without comments."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", (HOW_TO / name).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.split("   #")[0].split("      #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(ELSEWHERE)]


def run(line: str) -> None:
    """Run a command; ``export`` sets variables."""
    words = shlex.split(line, comments=True)
    if words[0] == "export":
        os.environ.update({name: value for name, _, value in (word.partition("=") for word in words[1:])})
    elif words[0] == "hostctl":
        assert main(words[1:]) == 0, line
    else:
        subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def place(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which builds lie; what the how-tos export is undone afterwards."""
    for name in ("HOSTCTL_REPOSITORY", "HOSTCTL_KEYS"):
        monkeypatch.setenv(name, "")
    folder = workshop.folder / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for version, name in (("2026.9.1", "older"), ("2026.10.1", "old"), ("2026.11.1", "build")):
        shutil.copytree(workshop.build(version), folder / name)
    return folder


def test_publishing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands("publish.md")
    assert len(lines) == 13
    for line in lines:
        if line.startswith("hostctl publish"):
            for build in ("older", "old"):
                run(f"hostctl publish {build}")
        capsys.readouterr()
        run(line)
        if "--rollout" in line:
            (share,) = re.findall(r'"([0-9]+)%', line)
            assert f"to {share} %" in capsys.readouterr().out or "over" not in line
    store = Store.open(place / "updates")
    assert store.versions("beta", "edge") == ("2026.11.1",)
    assert store.versions("stable", "edge") == ("2026.9.1", "2026.10.1")


def test_rotating_keys(place: Path) -> None:
    keys, safe = place / "keys", place / "safe"
    run("hostctl keys init keys")
    run("hostctl publish build --repository updates --keys keys")
    carry: dict[str, Callable[[], object]] = {
        "hostctl repo sign root.json --key root-1.pem": lambda: shutil.copyfile("updates/drafts/root.json", "root.json")
    }
    effective = []
    for number, line in enumerate(commands("rotate-keys.md")):
        if number == 3:  # from here on, keys are offline
            safe.mkdir()
            for name in ("root-1", "root-2", "root-3"):
                shutil.copyfile(keys / f"tuf/{name}.pem", place / f"{name}.pem")
                shutil.move(keys / f"tuf/{name}.pem", safe / f"{name}.pem")
        if line in carry:
            carry[line]()
        if "--drop KEY" in line:
            # The how-to shows one signature coming back; the second ends the change before.
            run("hostctl repo sign --key root-2.pem --repository updates --keys keys")
            line = line.replace("KEY", "root-2.pem")  # noqa: PLW2901 - what the text says to put there
        run(line)
        effective.append(pending(place / "updates"))
    assert Store.open(place / "updates").channels == ("canary", "stable")
    run("hostctl repo sign --key root-1.pem --key root-3.pem --repository updates --keys keys")
    assert pending(place / "updates") == ()
    root = Store.open(place / "updates").roles.root
    assert (root.version, len(root.roles["root"].keyids)) == (4, 3)
    assert json.loads((keys / "tuf/root.json").read_bytes())["signed"]["version"] == 4
    assert ("root",) in effective
