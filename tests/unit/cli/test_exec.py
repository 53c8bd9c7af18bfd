"""The exit status of `hostctl exec`: the command's, or one that tells that it was not run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import pytest

from hostctl.agent import bus, client
from hostctl.cli import exec as exec_verb
from hostctl.errors import HostctlError


@pytest.mark.parametrize(
    ("code", "seen"),
    [(1, 125), (69, 125), (75, 125), (125, 125), (2, 2), (126, 126), (127, 127)],
)
def test_what_was_not_run_is_told_from_what_failed(code: int, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"id": "kettle-empty", "brief": "no water", "details": "none", "hint": "rain", "exit_code": code}

    def execute(name: str, wanted: object, files: Sequence[int]) -> int:
        raise bus.remote_error(json.dumps(document))

    monkeypatch.setattr(client, "execute", execute)
    parser = argparse.ArgumentParser()
    exec_verb.configure(parser)
    with pytest.raises(HostctlError) as raised:
        exec_verb.run(parser.parse_args(["-T", "site", "ls"]))
    error = raised.value
    assert (error.id, error.brief, error.details, error.hint) == ("kettle-empty", "no water", "none", "rain")
    assert error.exit_code == seen
