"""The commands as a publisher types them: what they print, as text and as JSON, and how they end."""

from __future__ import annotations

import json
import shutil

import pytest

from hostctl.cli.main import main

from .conftest import Workshop


@pytest.fixture
def shell(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("HOSTCTL_REPOSITORY", str(workshop.repository))
    monkeypatch.setenv("HOSTCTL_KEYS", str(workshop.keys))
    return workshop


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(words)) == code
    return capsys.readouterr().out


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, object]:
    document: dict[str, object] = json.loads(said(capsys, *words, "--json", code=code))
    return document


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    capsys.readouterr()
    assert main(list(words)) == code
    return capsys.readouterr().err


def test_a_day_of_a_publisher(shell: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert "beta, stable" in said(capsys, "repo", "init")
    first, second = str(shell.build("1")), str(shell.build("2", channel="beta"))
    assert "published edge_1 (x86-64, channel stable)" in said(capsys, "publish", first)
    assert "metadata are renewed" in said(capsys, "repo", "publish", first)
    document = shown(capsys, "publish", second, "--minimum", "1")
    assert (document["channel"], document["new"]) == ("beta", True)
    text = said(capsys, "repo", "promote", "2", "--to", "stable", "--rollout", "12.5% over 1.5 days")
    assert "promoted edge_2" in text
    assert "hosts with 1 or newer" in text
    assert "12.5 % over 36 h" in text
    document = shown(capsys, "repo", "promote", "2", "--to", "stable", "--rollout", "100%")
    offer = document["offer"]
    assert isinstance(offer, dict)
    assert (offer["minimum"], offer["rollout"]) == ("1", None)
    text = said(capsys, "repo", "stats")
    assert "edge_2" in text
    assert "a host that runs" in text
    assert len(shown(capsys, "repo", "stats")["releases"]) == 3  # type: ignore[arg-type] # a list
    assert "all is well: 3 releases" in said(capsys, "repo", "verify", "--keys", str(shell.keys))
    assert shown(capsys, "repo", "verify")["ok"] is True
    assert "withdrew edge_2 from channel stable" in said(capsys, "repo", "withdraw", "2", "--from", "stable")
    assert "0 files removed" in said(capsys, "repo", "expire", "--keep", "1")
    assert "would be removed" in said(capsys, "repo", "expire", "--dry-run", "--grace", "0")
    assert shown(capsys, "repo", "expire")["dropped"] == []
    assert "signed timestamp" in said(capsys, "repo", "refresh")
    assert shown(capsys, "repo", "refresh")["signed"] == ["timestamp"]


def test_keys_change_in_steps(shell: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "publish", str(shell.build("1")))
    safe = shell.folder / "safe"
    safe.mkdir()
    for name in ("root-1", "root-2", "root-3"):
        shutil.move(shell.keys / f"tuf/{name}.pem", safe / f"{name}.pem")
    text = said(capsys, "repo", "rotate", "timestamp")
    assert "waits for signatures" in text
    assert "2 more of the present keys of root must sign" in text
    assert "hostctl repo sign root.json --key" in text
    carried = shell.folder / "root.json"
    shutil.copyfile(shell.repository / "drafts/root.json", carried)
    shutil.move(shell.repository, shell.folder / "elsewhere")  # nothing but the file is needed to sign
    text = said(capsys, "repo", "sign", str(carried), "--key", str(safe / "root-1.pem"))
    assert "root 2" in text
    assert "root: 2 of" in text
    assert len(shown(capsys, "repo", "sign", str(carried), "--key", str(safe / "root-1.pem"))["signed"]) == 0  # type: ignore[arg-type] # a list
    shutil.move(shell.folder / "elsewhere", shell.repository)
    options = ("--repository", str(shell.repository), "--keys", str(shell.keys))
    assert "1 more" in said(capsys, "repo", "sign", str(carried), *options)
    assert "root 2 is in effect" in said(capsys, "repo", "sign", "--key", str(safe / "root-3.pem"), *options)
    assert "all is well" in said(capsys, "repo", "verify", "--keys", str(shell.keys))
    document = shown(capsys, "repo", "rotate", "stable")
    assert document["in_effect"] is True
    assert len(document["made"]) == 1  # type: ignore[arg-type] # a list


def test_what_is_wrong_ends_with_one_and_is_named(shell: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "publish", str(shell.build("1")))
    next(shell.repository.glob("payloads/*/*")).unlink()
    assert "wrong: payloads/" in said(capsys, "repo", "verify", code=1)
    assert shown(capsys, "repo", "verify", code=1)["ok"] is False


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("repo", "promote", "9", "--to", "stable"), 1, "no release 9"),
        (("repo", "promote", "1", "--to", "gamma"), 1, "no channel 'gamma'"),
        (("repo", "promote", "1", "--to", "beta", "--rollout", "half"), 2, "is not a rollout"),
        (("repo", "promote", "1", "--to", "beta", "--rollout", "101%"), 2, "too much"),
        (("repo", "promote", "1", "--to", "beta", "--rollout", "10% over 9999 days"), 2, "too much"),
        (("repo", "promote", "1", "--to", "beta", "--rollout-start", "2026-01-01"), 2, "--rollout"),
        (("repo", "promote", "1", "--to", "beta", "--rollout", "1%", "--rollout-start", "noon"), 2, "not a time"),
        (("repo", "promote", "1", "--to", "beta", "--minimum", "../1"), 2, "not a version"),
        (("repo", "promote", "1", "--to", "beta", "--minimum", "2"), 2, "could update"),
        (("repo", "withdraw", "1", "--from", "beta"), 1, "beta has no release 1"),
        (("repo", "expire", "--keep", "0"), 2, "--keep 1"),
        (("repo", "rotate", "gamma"), 1, "no channel 'gamma'"),
        (("repo", "sign"), 1, "nothing waits"),
        (("repo", "sign", "missing.json"), 1, "nothing waits"),
        (("publish", "nowhere"), 1, "does not hold a build"),
    ],
)
def test_refusals_name_what_and_why(
    shell: Workshop, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, text: str
) -> None:
    said(capsys, "publish", str(shell.build("1")))
    before = shell.files()
    options = ("--repository", str(shell.repository)) if words[:2] == ("repo", "sign") else ()
    assert text in refused(capsys, *words, *options, code=code)
    assert shell.files() == before
    assert json.loads(refused(capsys, *words, *options, "--json", code=code))["brief"]


def test_what_is_not_named_is_asked_for(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOSTCTL_REPOSITORY", raising=False)
    monkeypatch.delenv("HOSTCTL_KEYS", raising=False)
    assert "pass --repository DIR" in refused(capsys, "repo", "stats", code=2)
    assert "pass --keys DIR" in refused(capsys, "repo", "refresh", "--repository", str(workshop.folder), code=2)
    nothing = refused(capsys, "repo", "stats", "--repository", str(workshop.folder), code=1)
    assert "hostctl repo init" in nothing
    bare = refused(capsys, "repo", "init", "--repository", "x", "--keys", str(workshop.folder), code=1)
    assert "hostctl keys init" in bare


@pytest.mark.parametrize(
    "action",
    ["init", "publish", "promote", "withdraw", "expire", "refresh", "rotate", "sign", "verify", "stats", "serve"],
)
def test_every_action_explains_itself_with_examples(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["repo", action, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "--json" in text
