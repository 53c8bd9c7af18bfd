"""Docker's verbs that make something of what is there: looked for, created, renamed, committed, connected, built."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hostctl_lab.host import Host
from hostctl_lab.images import layout
from hostctl_lab.registry import Registry
from hostctl_lab.releases import CHECKOUT, Lab, hostctl
from hostctl_qemu.ssh import make_key

BOX = "/usr/bin/busybox"
PAGE = "a page from inside"
READY_SECONDS = 60.0
BUILD_SECONDS = 1800.0  # a pull of 60 MiB and copies of a root file system, emulated


@pytest.fixture(scope="module")
def tool(lab: Lab, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of an image that did not come with the release: the tests' own with a file more."""
    with tarfile.open(lab.image()) as archive:
        blobs = [archive.extractfile(member) for member in archive if member.name.startswith("blobs/")]
        (layer,) = [data for blob in blobs if blob and (data := blob.read())[:4] == b"\x28\xb5\x2f\xfd"]
    tar = io.BytesIO(zstandard.ZstdDecompressor().decompress(layer, max_output_size=64 << 20))
    with tarfile.open(fileobj=tar, mode="a") as whole:
        info = tarfile.TarInfo("etc/tool")
        info.size = 4
        whole.addfile(info, io.BytesIO(b"tool"))
    folder = tmp_path_factory.mktemp("tool")
    layout(folder / "tool", tars=[tar.getvalue()])
    registry.push(f"oci:{folder}/tool", "tool:1")
    return f"{registry.guest_address}/tool:1"


@pytest.fixture(scope="module")
def wanted(declaration: str, ssh_folder: Path, registry: Registry) -> str:
    """Return a declaration where workloads may be run, with one that is declared, and a user who is nobody."""
    with_eve = declaration.replace("users:\n", f"users:\n  eve: {{ssh_keys: ['{make_key(ssh_folder)}']}}\n")
    return f"""{with_eve}\
registries: {{"{registry.guest_address}": {{insecure: true}}}}
allow_run: true
workloads:
  web:
    image: localhost/box:1
    ports: ["8080:80"]
  inner:
    image: localhost/box:1
    networks: [back]
networks:
  back: {{internal: true}}
  front: {{}}
"""


def inside(host: Host, name: str, script: str) -> str:
    """Return what a shell script prints in a workload, whose image has no links to its one program."""
    aliases = "".join(f'alias {each}="{BOX} {each}"\n' for each in ("cat", "ip", "ls", "mkdir", "rm", "wget"))
    return host.text("hostctl", "exec", name, "--", BOX, "sh", "-c", aliases + script)


def test_a_registry_is_looked_through(host: Host, wanted: str, registry: Registry) -> None:
    host.apply(wanted)
    name = f"{registry.guest_address}/box"
    rows = host.text("hostctl", "search", "--registry", registry.guest_address, "bo").splitlines()
    assert rows[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert rows[1].split() == [name, "0"]
    found = json.loads(host.text("hostctl", "search", "--json", f"{registry.guest_address}/box"))
    assert [image["name"] for image in found["images"]] == [name]
    assert found["complete"] is True
    assert json.loads(host.text("hostctl", "search", "--json", f"{registry.guest_address}/nothing"))["images"] == []
    assert host.run("hostctl", "search", "--limit", "0", "box", check=False).status == 2
    assert host.run("hostctl", "search", "--registry", "127.0.0.1:1", "box", check=False).status == 69
    assert host.run("hostctl", "search", name, user="eve", check=False).status == 1


def state(host: Host, name: str) -> str:
    """Return what `hostctl ps` says of a workload; nothing if there is none."""
    return host.text("hostctl", "ps", "--filter", f"name={name}", "--format", "{{.State}}")


def invocation(host: Host, name: str) -> str:
    """Return what is different after each start of a workload."""
    return host.text("systemctl", "show", f"workload-{name}.service", "-P", "InvocationID")


REFUSED = (
    *(("start", "web"), ("unpause", "web"), ("limits", "web", "--memory", "32M"), ("auto-update",)),
    *(("cp", "web:/etc/passwd", "-"), ("cp", "/etc/hostname", "web:/tmp/x"), ("cp", "-", "web:/tmp")),
    *(("diff", "web"), ("export", "web"), ("commit", "web"), ("rename", "web", "x")),
    *(("run", "-d", "localhost/box:1"), ("create", "localhost/box:1"), ("rm", "x")),
    *(("volume", "ls"), ("volume", "inspect", "content"), ("volume", "create", "x"), ("volume", "rm", "content")),
    *(("volume", "prune", "-f"), ("volume", "backup", "content"), ("volume", "restore", "content")),
    *(("load",), ("save", "localhost/box:1"), ("tag", "localhost/box:1", "x:1"), ("rmi", "localhost/box:1")),
    *(("login", "-u", "me", "--password-stdin", "r.example"), ("logout", "r.example"), ("push", "localhost/box:1")),
    *(("secret", "ls"), ("secret", "set", "key"), ("secret", "rm", "key")),
)
"""What is refused to a user without sudo, by the agent alone: everything that changes or shows what is inside."""


def test_a_plain_user_neither_changes_nor_takes_anything(host: Host, wanted: str) -> None:
    before, generation = invocation(host, "web"), host.status()["generation"]
    for words in REFUSED:
        done = host.run("hostctl", *words, user="eve", stdin="", check=False)
        said = done.stderr.decode("utf-8", "replace")
        status = 125 if words[0] == "run" else 1
        assert (done.status, "root and users with sudo" in said) == (status, True), f"{words}: {said}"
        assert done.stdout == b"", words
    assert host.run("hostctl", "apply", "-", user="eve", stdin=wanted, check=False).status == 1
    assert invocation(host, "web") == before
    assert host.status()["generation"] == generation
    assert json.loads(host.text("hostctl", "volume", "ls", "--json")) == []
    assert host.run("hostctl", "image", "inspect", "x:1", check=False).status != 0


BUS = ("busctl", "--json=short", "call", "org.hostctl.Host1", "/org/hostctl/Host1", "org.hostctl.Host1")


def asked(host: Host, member: str, *argument: str) -> Any:  # noqa: ANN401 - by the method's documentation
    """Return what a method of the agent answers."""
    words = ("s", *argument) if argument else ()
    return json.loads(json.loads(host.text(*BUS, member, *words))["data"][0])


def test_what_verbs_show_is_to_be_had_from_the_bus(host: Host) -> None:
    for member, argument, verb in (
        ("ListNetworks", (), ("network", "ls")),
        ("ListImages", (), ("images",)),
        ("ImageHistory", ("localhost/box:1",), ("image", "history", "localhost/box:1")),
        ("Ports", ("web",), ("port", "web")),
        ("GetLimits", ("web",), ("limits", "web")),
        ("Version", (), ("version",)),
    ):
        assert asked(host, member, *argument) == json.loads(host.text("hostctl", *verb, "--json")), member
    (figures,) = asked(host, "Stats", '["web"]')
    assert figures["pids"] >= 1
    assert 1 in [one["inside"] for one in asked(host, "Top", "web")]
    assert host.run(*BUS, "Info", user="eve").status == 0
    assert host.run(*BUS, "Top", "s", "web", user="eve", check=False).status == 1


def test_what_is_created_waits_for_its_start_and_is_renamed(host: Host) -> None:
    web = invocation(host, "web")
    assert host.text("hostctl", "create", "-q", "--name", "a", "--memory", "32M", "localhost/box:1") == "run-a"
    assert state(host, "run-a") == "created"
    assert host.status()["state"] == "running"
    assert "is declared" in host.fails("hostctl", "rename", "web", "b")
    assert "change its name in host.yaml" in host.fails("hostctl", "rename", "web", "b")
    assert host.run("hostctl", "rename", "a", "b", user="eve", check=False).status == 1
    host.text("hostctl", "rename", "a", "b")
    assert (state(host, "run-a"), state(host, "run-b")) == ("", "created")
    host.text("hostctl", "start", "run-b")
    assert state(host, "run-b") == "running"
    assert json.loads(host.text("hostctl", "rename", "--json", "b", "c"))["former"] == "run-b"
    assert (state(host, "run-b"), state(host, "run-c")) == ("", "running")
    assert inside(host, "run-c", "echo here") == "here"
    host.text("hostctl", "kill", "run-c")
    host.wait_for("its end is known", lambda: state(host, "run-c") == "exited", 30)
    assert host.text("hostctl", "wait", "run-c") == "137"
    assert host.status()["state"] in ("degraded", "starting"), "it was killed, and is there to be looked at"
    host.text("hostctl", "rm", "c")
    assert invocation(host, "web") == web
    assert "no workload" in host.fails("hostctl", "rename", "nope", "x")


def start(host: Host, name: str, image: str, *options: str) -> str:
    """Run a workload of an image that does nothing; return its full name."""
    words = ("hostctl", "run", "-d", "--name", name, "-u", "0:0", "--entrypoint", BOX, *options, image, "sleep", "9999")
    return host.text(*words)


def test_what_is_run_takes_what_docker_takes(host: Host, tool: str) -> None:
    host.text("hostctl", "volume", "create", "scratch")
    options = (
        "--network back -v scratch:/x -m 64m -e HOME -w /x --tmpfs /t:rw,size=1m --hostname words --cap-add NET_RAW"
    )
    name = start(host, "words", tool, *options.split(), "--restart", "on-failure:3")
    said = inside(host, "words", f"pwd; echo $HOME; {BOX} hostname; echo x >/x/file; {BOX} df -k /t | {BOX} tail -n 1")
    assert said.splitlines()[:3] == ["/x", "/root", "words"]
    assert said.split()[4] == "1024"
    networks = json.loads(host.text("hostctl", "inspect", "-f", "{{json .NetworkSettings.Networks}}", name))
    assert list(networks) == ["back"]
    assert host.shell("cat /sys/fs/cgroup/system.slice/workload-run-words.service/memory.max") == str(64 << 20)
    assert "in use" in host.fails("hostctl", "volume", "rm", "scratch")
    host.text("hostctl", "rm", "words")
    host.text("hostctl", "volume", "rm", "scratch")
    assert "hostctl volume create nope" in host.fails("hostctl", "run", "-v", "nope:/x", tool)


def test_what_a_workload_has_become_is_an_image(host: Host, registry: Registry, tool: str) -> None:
    target = f"{registry.guest_address}/tool:2"
    name = start(host, "t", tool)
    inside(host, name, "echo kept >/etc/note; rm /etc/tool; mkdir /new; echo x >/new/x")
    image = host.text("hostctl", "commit", "-q", "-m", "a note", "-a", "ops", name, target)
    assert host.text("hostctl", "commit", "-q", "-m", "a note", "-a", "ops", "--pause=false", name, "again:1") == image
    assert state(host, name) == "running"
    assert host.shell("ls /run/hostctl/still /var/lib/hostctl/images/tmp | grep -v :") == ""
    assert "a note" in host.text("hostctl", "image", "history", target)
    assert f"{target}: well" in host.text("hostctl", "image", "verify", target)
    copy = start(host, "copy", target)
    assert inside(host, copy, "cat /etc/note /new/x; cat /etc/tool || echo gone").splitlines()[:2] == ["kept", "x"]
    assert "A /etc/note" not in host.text("hostctl", "diff", copy)
    assert host.run("hostctl", "exec", copy, "--", BOX, "test", "-e", "/etc/tool", check=False).status == 1
    host.text("hostctl", "push", target)
    host.text("hostctl", "save", "-o", "/run/tool.tar", target)
    saved = host.text("skopeo", "inspect", "--raw", f"docker-archive:/run/tool.tar:{target}")
    assert json.loads(saved)["config"]["digest"] == image
    host.text("hostctl", "stop", "-t", "1", name)
    inside(host, copy, "echo more >/etc/more")
    assert "gone with its run" in host.fails("hostctl", "commit", name)
    assert host.run("hostctl", "commit", copy, user="eve", check=False).status == 1
    host.text("hostctl", "rm", "t", "copy")


def test_a_commit_without_a_difference_is_refused_and_a_killed_agent_freezes_nothing(host: Host, tool: str) -> None:
    fixed = start(host, "fixed", tool, "--read-only")
    said = host.fails("hostctl", "commit", fixed)
    assert "is read_only, so nothing differs" in said
    host.text("hostctl", "rm", "fixed")
    name = start(host, "big", tool)
    host.text("hostctl", "exec", name, "--", BOX, "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=64")
    host.shell(f"""\
hostctl commit {name} big:1 >/dev/null 2>&1 &
until test -e /run/hostctl/still/{name}; do :; done
systemctl kill --signal=KILL hostd.service
wait || true
""")
    frozen = f"/sys/fs/cgroup/system.slice/workload-{name}.service/cgroup.events"
    host.wait_for("it runs on", lambda: "frozen 0" in host.text("cat", frozen), 60)
    assert inside(host, name, "echo here") == "here"
    assert host.shell("ls /run/hostctl/still") == ""
    assert host.run("hostctl", "image", "inspect", "big:1", check=False).status != 0
    host.text("hostctl", "rm", "big")


def reaches(host: Host, name: str, address: str) -> bool:
    """Tell whether a workload gets the page of another."""
    return PAGE in inside(host, name, f"wget -T 5 -q -O - http://{address}/ 2>/dev/null || true")


def interfaces(host: Host, name: str) -> list[str]:
    """Return a workload's interfaces, without loopback, in order."""
    return sorted(inside(host, name, "for each in /sys/class/net/eth*; do echo ${each##*/}; done").split())


def test_a_workload_is_connected_and_disconnected_while_it_runs(host: Host, tool: str) -> None:
    name, inner = start(host, "net", tool), invocation(host, "inner")
    before = invocation(host, name)
    assert not reaches(host, name, "inner")
    host.text("hostctl", "network", "connect", "--alias", "watch", "back", name)
    host.wait_for("it finds its neighbour", lambda: reaches(host, name, "inner"), READY_SECONDS)
    assert reaches(host, name, "web")
    assert interfaces(host, name) == ["eth0", "eth1"]
    said = json.loads(host.text("hostctl", "network", "connect", "--json", "front", "net"))
    assert said["addresses"][0] in inside(host, name, "ip addr show eth2")
    host.text("hostctl", "network", "disconnect", "back", "net")
    assert interfaces(host, name) == ["eth0", "eth2"]
    assert not reaches(host, name, "inner")
    assert invocation(host, name) == before
    assert name not in host.text("hostctl", "network", "inspect", "back")
    host.text("hostctl", "restart", "-t", "1", name)
    assert interfaces(host, name) == ["eth0", "eth2"], "for as long as the workload lasts"
    assert "name server" in host.fails("hostctl", "network", "disconnect", "default", name)
    before = invocation(host, name)
    host.text("hostctl", "network", "disconnect", "-f", "default", name)
    assert invocation(host, name) != before
    assert interfaces(host, name) == ["eth2"]
    assert "only network" in host.fails("hostctl", "network", "disconnect", "front", name)
    said = host.fails("hostctl", "network", "connect", "back", "web")
    assert "in host.yaml: workloads.web.networks: [default, back]" in said
    assert host.run("hostctl", "network", "connect", "back", name, user="eve", check=False).status == 1
    host.text("hostctl", "rm", "net")
    assert invocation(host, "inner") == inner
    assert host.shell("ls /run/netns").split() == ["workload-inner", "workload-web"]


@pytest.fixture(scope="module")
def buildah(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of the example's image with buildah."""
    folder = tmp_path_factory.mktemp("buildah")
    shutil.copyfile(CHECKOUT / "examples/buildah/image.yaml", folder / "image.yaml")
    hostctl("image", "build", folder / "image.yaml", "-o", folder / "buildah.tar")
    registry.push(f"oci-archive:{folder}/buildah.tar", "buildah:1")
    return f"{registry.guest_address}/buildah:1"


CONTAINERFILE = """\
ARG TAG=1
FROM {tool}:$TAG AS one
ARG WORD=none
USER 0
COPY . /context
RUN ["{box}", "sh", "-c", \\
  "{box} mount -t tmpfs x /context || echo built $WORD by $({box} id -u) >/built; {box} chown 33:44 /built"]
FROM one
RUN ["{box}", "rm", "/context/gone"]
ENTRYPOINT ["{box}"]
"""


def test_an_image_is_built_from_a_containerfile(host: Host, wanted: str, tool: str, buildah: str) -> None:
    repository, _, _ = tool.rpartition(":")
    host.shell(
        "rm -rf /run/context && mkdir -p /run/context/sub && cd /run/context && echo x >sub/file && echo y >gone"
    )
    host.shell(
        "cd /run/context && ln -s /etc/shadow shadow && printf 'sub/no*\n' >.dockerignore && echo z >sub/nothing"
    )
    text = CONTAINERFILE.format(tool=repository, box=BOX)
    host.text("sh", "-c", "cat >/run/context/Containerfile", stdin=text)
    words = ("hostctl", "build", "-t", "built:1", "--build-arg", "WORD=here", "/run/context")
    assert "this host builds no images" in host.fails(*words)
    host.apply(f"{wanted}build: {{image: '{buildah}', memory: 512M}}\n")
    web = invocation(host, "web")
    done = host.run(*words, seconds=BUILD_SECONDS)
    assert b"STEP" in done.stderr
    image = done.text.split()[-1]
    assert image == json.loads(host.text("hostctl", "image", "inspect", "built:1"))[0]["id"]
    name = host.text("hostctl", "run", "-d", "--name", "built", "built:1", "sleep", "9999")
    said = inside(host, name, "cat /built /context/sub/file; ls -ln /built; ls /context /context/sub").splitlines()
    assert said[:2] == ["built here by 0", "x"]
    assert said[2].split()[2:4] == ["33", "44"]
    assert not {"gone", "nothing"} & set(said)
    assert host.run("hostctl", "exec", name, "--", BOX, "cat", "/context/shadow", check=False).status != 0
    host.text("hostctl", "rm", "built")
    assert "run-build" not in host.text("hostctl", "ps", "-q")
    assert invocation(host, "web") == web
    host.text("hostctl", "save", "-o", "/run/built.tar", "built:1")


def test_a_build_that_fails_says_why_and_leaves_nothing(host: Host, tool: str) -> None:
    before = host.text("hostctl", "images", "-q")
    bad = f'FROM {tool}\nRUN ["{BOX}", "sh", "-c", "echo it is broken; exit 7"]\n'
    host.text("sh", "-c", "cat >/run/context/Containerfile", stdin=bad)
    done = host.run("hostctl", "build", "-t", "bad:1", "/run/context", seconds=BUILD_SECONDS, check=False)
    assert done.status == 1
    assert b"it is broken" in done.stderr
    quiet = host.run("hostctl", "build", "-q", "-t", "bad:1", "/run/context", seconds=BUILD_SECONDS, check=False)
    assert (quiet.status, quiet.stdout) == (1, b"")
    assert b"exit status 7" in quiet.stderr
    assert host.run("hostctl", "build", "/run/context", user="eve", check=False).status == 1
    assert host.text("hostctl", "images", "-q") == before
    assert "run-build" not in host.text("hostctl", "ps", "-q")
    host.shell(
        f"""\
printf 'FROM {tool}\\nRUN ["{BOX}", "sleep", "600"]\\n' >/run/context/Containerfile
hostctl build /run/context >/dev/null 2>&1 &
until hostctl ps -q | grep -q run-build; do sleep 1; done
systemctl kill --signal=KILL hostd.service
wait || true
""",
        seconds=BUILD_SECONDS,
    )
    host.wait_for("what is left goes", lambda: "run-build" not in host.text("hostctl", "ps", "-q"), 120)
