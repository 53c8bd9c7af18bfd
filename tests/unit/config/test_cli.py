"""The verb: exit codes, which stream says what, and how the kind of a file is recognised."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from hostctl.cli.config import recognise
from hostctl.cli.main import main

HOST = "version: 1\nhostname: web-1\nworkloads: {site: {image: registry.example/site:1}}\n"
RELEASE = "version: 1\nname: edge\nrelease: 2026.11.1\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "host.yaml").write_text(HOST)
    (tmp_path / "edge.yaml").write_text(RELEASE)
    (tmp_path / "bad.yaml").write_text(HOST.replace("image", "imgae"))
    return tmp_path


def test_check_takes_both_kinds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(files / "host.yaml"), str(files / "edge.yaml")]) == 0
    out = capsys.readouterr().out
    assert "host.yaml: a valid host declaration" in out
    assert "edge.yaml: a valid release declaration" in out


def test_check_goes_on_after_a_bad_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(files / name) for name in ("bad.yaml", "missing.yaml", "host.yaml")]
    assert main(["config", "check", *names]) == 2
    captured = capsys.readouterr()
    assert f"{names[0]}:3:20: workloads.site.imgae: unknown setting; did you mean 'image'?" in captured.err
    assert f"cannot read {names[1]}" in captured.err
    assert "host.yaml: a valid host declaration" in captured.out


def test_check_as_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--json", str(files / "bad.yaml")]) == 2
    (result,) = json.loads(capsys.readouterr().out)
    assert result["valid"] is False
    assert [(each["line"], each["path"]) for each in result["problems"]] == [
        (3, "workloads.site"),
        (3, "workloads.site.imgae"),
    ]


def test_kind_can_be_forced(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--kind", "release", str(files / "host.yaml")]) == 2
    assert "hostname: unknown setting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        (HOST, "x", "host"),
        (RELEASE, "host.yaml", "release"),
        ("", "release.yaml", "release"),
        ("", "web.yaml", "host"),
        ("version: 1\nworkloads:\n  a: {env: {release: 1}}\n", "x", "host"),
    ],
)
def test_recognised_by_settings_then_by_name(text: str, name: str, kind: str) -> None:
    assert recognise(text, name) == kind


def test_show(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(files / "edge.yaml")]) == 0
    assert capsys.readouterr().out == RELEASE
    assert main(["config", "show", "--full", "--json", str(files / "edge.yaml")]) == 0
    assert json.loads(capsys.readouterr().out)["boot"] == {"tries": 3, "deadline": "5m", "cmdline": []}
    assert main(["config", "show", str(files / "bad.yaml")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "bad.yaml:3:20" in captured.err


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(HOST.encode())))
    assert main(["config", "show", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hostname"] == "web-1"


@pytest.mark.parametrize("kind", ["host", "release"])
def test_schema_and_reference(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", kind]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == f"{kind}.yaml of hostctl"
    assert main(["config", "reference", kind]) == 0
    assert capsys.readouterr().out.startswith(f"# {kind}.yaml\n")


def test_verbs_of_a_host_say_that_this_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("status", "ps", "history"):
        assert main([verb]) == 1
        said = capsys.readouterr()
        assert "does not run a release" in said.err
        assert said.out == ""


def test_a_lock_that_cannot_be_written_is_said_before_packages_are_resolved(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lock", str(files / "edge.yaml"), "-o", str(files / "missing/point.lock")]) == 2
    told = capsys.readouterr()
    assert "missing/point.lock cannot be written" in told.err
    assert "resolve packages" not in told.err
