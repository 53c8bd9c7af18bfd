"""What a build asks for, the workload that does it, and what it runs."""

from __future__ import annotations

import json

import pytest

from hostctl.agent import building, transient
from hostctl.agent.building import BuildFailedError, BuildNotAllowedError, BuildRequestError
from hostctl.agent.plan import plan
from hostctl.config.load import parse_host

HOST = """\
version: 1
hostname: web-1
allow_run: true
build: {image: "localhost/buildah:1", memory: 512M, cpus: 1.5}
workloads: {web: {image: "r.example/web:1"}}
"""
FULL = {
    "tags": ["site:2", "r.example/site:2"],
    "needs": ["nginx", "r.example/base:1"],
    "arguments": ["V=1", "W=a b\n"],
    "target": "two",
    "quiet": True,
}


def test_the_workload_is_what_the_declaration_says_and_one_capability_more() -> None:
    name = building.new_name()
    before, after = parse_host(HOST, "x"), parse_host(building.add(HOST, name), "x")
    assert [str(action) for action in plan(before, after)] == [f"+ workload {name}: declared"]
    (workload,) = [each for key, each in after.workloads.items() if key == name]
    assert (workload.image, workload.memory, workload.cpus) == ("localhost/buildah:1", 512 << 20, 1.5)
    assert [*map(str, workload.capabilities)] == ["CAP_SYS_ADMIN"]
    assert building.left_over(after) == (name,)
    assert building.left_over(before) == ()


def test_without_a_word_of_it_nothing_is_built() -> None:
    with pytest.raises(BuildNotAllowedError) as caught:
        building.add(HOST.replace("build:", "# build:"), "run-build-00000000")
    assert "build: {image" in caught.value.hint


def test_what_images_are_built_with_is_a_change_of_the_declaration() -> None:
    without = parse_host(HOST.replace("build:", "# build:"), "x")
    other = parse_host(HOST.replace("buildah:1", "buildah:2"), "x")
    assert [(action.area, action.kind) for action in plan(without, other)] == [("build", "create")]
    assert [(action.area, action.kind) for action in plan(parse_host(HOST, "x"), other)] == [("build", "change")]


def test_nobody_elses_workload_is_taken_for_one_of_a_build() -> None:
    text = transient.add(HOST, "run-build-0123abcd", json.dumps({"image": "r.example/x:1"}))
    assert building.left_over(parse_host(text, "x")) == ()
    with pytest.raises(transient.RunRequestError):
        transient.add(HOST, "run-x", json.dumps({"image": "r.example/x:1", "capabilities": ["CAP_SYS_ADMIN"]}))


def test_options_are_words_of_their_own() -> None:
    request = building.decode(json.dumps(FULL))
    assert [str(tag) for tag in request.tags] == ["docker.io/library/site:2", "r.example/site:2"]
    argv = building.build(request).argv
    assert argv[:6] == ("buildah", "--root", "/build/storage", "--runroot", "/build/run", "--storage-driver")
    assert argv[-7:] == ("two", "--quiet", "--build-arg", "V=1", "--build-arg", "W=a b\n", "/build/context")
    assert "--pull=never" in argv
    assert building.pull(3).argv[-1] == "oci:/build/base-3"
    assert building.tag("1" * 64, "nginx").argv[-3:] == ("1" * 64, "nginx", "docker.io/library/nginx:latest")
    assert building.folders(request.needs) == ("context", "base-0", "base-1")
    assert building.decode("{}") == building.Request()


def test_no_step_needs_what_hosts_refuse() -> None:
    command = building.build(building.Request())
    options = dict(zip(command.argv, command.argv[1:], strict=False))
    assert options["--isolation"] == "rootless", "chroot executes a memfd"
    assert options["--runtime"] == "crun", "runc executes a memfd"
    assert options["--pid"] == options["--network"] == "host", "the workload's own"
    assert not [each for each in command.env if each.startswith("BUILDAH_")]


@pytest.mark.parametrize(
    "change",
    [
        {"tags": ["NOT AN IMAGE"]},
        {"tags": [f"a@sha256:{'1' * 64}"]},
        {"tags": "a"},
        {"tags": [3]},
        {"needs": ["../x"]},
        {"needs": ["a"] * 65},
        {"arguments": ["--privileged"]},
        {"arguments": ["=x"]},
        {"arguments": ["A=\0"]},
        {"arguments": ["A=" + "x" * (64 << 10)]},
        {"target": "--volume=/:/host"},
        {"target": "a b"},
        {"volume": ["/:/host"]},
    ],
)
def test_what_a_request_may_not_say_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BuildRequestError):
        building.decode(json.dumps({**FULL, **change}))


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "[" * 100_000, '{"tags": null}'])
def test_what_is_no_request_is_refused(text: str) -> None:
    if text == "[]":
        assert building.decode(text) == building.Request()
        return
    with pytest.raises(BuildRequestError):
        building.decode(text)


@pytest.mark.parametrize("printed", [b"", b"1" * 63, b"--all\n", b"1" * 64 + b" x", b"\xff" * 64, b"1" * 100_000])
def test_what_is_printed_is_an_id_or_nothing(printed: bytes) -> None:
    assert building.image_id(b"sha256:" + b"1" * 64 + b"\n") == "1" * 64
    with pytest.raises(BuildFailedError):
        building.image_id(printed)
