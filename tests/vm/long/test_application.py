"""The application of examples/application: driven over HTTP, parts killed, one upgraded, a volume restored."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping

import pytest
import yaml
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry
from hostctl_lab.releases import CHECKOUT, hostctl

EXAMPLE = CHECKOUT / "examples/application"
IMAGES = ("web", "app", "database", "cache")
EXAMPLE_REGISTRY = "registry.example.org"
PASSWORD = "it's a secret"  # noqa: S105 - of a database that nobody else reaches
UP_SECONDS = 900.0  # four pulls and the making of a database, emulated
BACK_SECONDS = 120.0
CHECK_TIMEOUT = "30s"  # of a program that takes seconds to start, emulated
BACKUP = "/run/database.tar.zst"


@pytest.fixture(scope="module")
def filled(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Return the registry with the images of the example, and version 2 of the application."""
    folder = tmp_path_factory.mktemp("application")
    for name in IMAGES:
        shutil.copytree(EXAMPLE / name, folder / name)
        hostctl("image", "build", folder / name / "image.yaml", "-o", folder / f"{name}.tar")
        registry.push(f"oci-archive:{folder / name}.tar", f"notes-{name}:1")
    (folder / "app/files/srv/version").write_text("2\n")
    hostctl("image", "build", folder / "app/image.yaml", "-o", folder / "app-2.tar")
    registry.push(f"oci-archive:{folder / 'app-2.tar'}", "notes-app:2")
    return registry


@pytest.fixture(scope="module")
def wanted(declaration: str, filled: Registry) -> str:
    """Return the example's host.yaml with the tests' registry, and what every host of the tests has."""
    where = filled.guest_address
    text = (EXAMPLE / "host.yaml").read_text().replace(EXAMPLE_REGISTRY, where)
    both = yaml.safe_load(declaration) | yaml.safe_load(text)
    for workload in both["workloads"].values():
        workload.get("healthcheck", {})["timeout"] = CHECK_TIMEOUT
    return yaml.safe_dump(both | {"registries": {where: {"insecure": True}}}, sort_keys=False)


def ask(host: Host, path: str, body: str | None = None) -> tuple[int, Mapping[str, str], object]:
    """Ask the application from outside the machine; return the status, the headers and the document."""
    url = f"http://127.0.0.1:{host.web_port}{path}"
    data = body.encode() if body is not None else None
    try:
        with urllib.request.urlopen(url, data=data, timeout=30) as answer:  # noqa: S310 - our own machine
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), None


def ask_health(host: Host) -> int:
    """Return the status with which the application answers for itself and its databases; 0 is no answer."""
    try:
        return ask(host, "/health")[0]
    except OSError:
        return 0


def notes(host: Host) -> object:
    """Return the notes."""
    status, _, document = ask(host, "/notes")
    assert status == 200
    return document


def test_it_comes_up_from_one_file(host: Host, wanted: str) -> None:
    host.text("hostctl", "secret", "set", "database", stdin=PASSWORD)
    assert "is in force" in host.apply(wanted, seconds=UP_SECONDS)
    assert notes(host) == []
    rows = json.loads(host.text("hostctl", "ps", "--json"))
    assert sorted(row["name"] for row in rows) == ["app", "cache", "database", "nightly", "web"]


def test_it_is_driven_over_http(host: Host) -> None:
    assert ask(host, "/notes", "first")[::2] == (201, {"id": 1})
    status, headers, document = ask(host, "/notes")
    assert (status, headers["X-Cache"], headers["X-Version"], document) == (200, "miss", "1", ["first"])
    assert ask(host, "/notes")[1]["X-Cache"] == "hit"
    assert ask(host, "/notes", "second")[0] == 201
    assert notes(host) == ["first", "second"]
    assert ask(host, "/elsewhere")[0] == 404


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


@pytest.mark.parametrize(("name", "port"), [("database", "5432"), ("cache", "6379")])
def test_only_the_application_reaches_the_databases(host: Host, name: str, port: str) -> None:
    address = host.text("hostctl", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)

    def connect_from(workload: str) -> tuple[str, ...]:
        process = host.text("hostctl", "inspect", "-f", "{{.State.Pid}}", workload)
        return ("nsenter", "--net", "--target", process, "python3", "-c", CONNECT, address, port)

    host.text(*connect_from("app"))
    assert "TimeoutError" in host.fails(*connect_from("web"))


@pytest.mark.parametrize("part", ["cache", "database", "app", "web"])
def test_a_part_that_is_killed_comes_back(host: Host, part: str) -> None:
    before = notes(host)
    host.text("hostctl", "kill", "--signal", "KILL", part)
    host.wait_for(f"the application answers without its {part}", lambda: ask_health(host) == 200, BACK_SECONDS)
    host.text("hostctl", "exec", "cache", "--", "/usr/bin/redis-cli", "flushall")
    assert notes(host) == before


def test_the_nightly_job_counts_the_notes(host: Host) -> None:
    host.text("hostctl", "start", "nightly", seconds=300)
    assert host.text("hostctl", "wait", "nightly", seconds=BACK_SECONDS) == "0"
    host.wait_for("the job has ended", lambda: "2 notes" in host.text("hostctl", "logs", "nightly"), BACK_SECONDS)
    assert host.text("cat", "/var/lib/hostctl/volumes/reports/notes.txt").split()[1] == "2"


def test_a_backup_is_restored(host: Host) -> None:
    host.text("hostctl", "stop", "database", seconds=300)
    digest = host.text("hostctl", "volume", "backup", "database", "-o", BACKUP, seconds=300).split()[0]
    host.text("hostctl", "start", "database", seconds=300)
    host.wait_for("the database is back", lambda: ask_health(host) == 200, BACK_SECONDS)
    assert ask(host, "/notes", "to be lost")[0] == 201
    assert notes(host) == ["first", "second", "to be lost"]
    host.text("hostctl", "volume", "restore", "--live", "database", "-i", BACKUP, "--sha256", digest, seconds=300)
    host.text("hostctl", "exec", "cache", "--", "/usr/bin/redis-cli", "flushall")
    host.wait_for("the database is back", lambda: ask_health(host) == 200, BACK_SECONDS)
    assert notes(host) == ["first", "second"]


def test_one_part_is_upgraded_alone(host: Host, wanted: str) -> None:
    started = {name: since(host, name) for name in ("web", "database", "cache")}
    newer = yaml.safe_load(wanted)
    newer["workloads"]["app"]["image"] = newer["workloads"]["app"]["image"].replace("notes-app:1", "notes-app:2")
    assert "is in force" in host.apply(yaml.safe_dump(newer, sort_keys=False), seconds=UP_SECONDS)
    host.wait_for("the application answers", lambda: ask_health(host) == 200, BACK_SECONDS)
    status, headers, document = ask(host, "/notes")
    assert (status, headers["X-Version"], document) == (200, "2", ["first", "second"])
    assert {name: since(host, name) for name in started} == started


def since(host: Host, name: str) -> str:
    """Return what is different after every start of a workload."""
    return host.text("systemctl", "show", "--value", "--property=InvocationID", f"workload-{name}.service")
