"""What a command inside a workload gets."""

from __future__ import annotations

import json

import pytest

from hostctl.agent import execution
from hostctl.agent.request import ExecRequestError, Request, decode, encode
from hostctl.workload.accounts import Account

BUNDLE = json.dumps(
    {
        "process": {
            "apparmorProfile": "tight",
            "terminal": False,
            "args": ["/site"],
            "cwd": "/srv",
            "env": ["PATH=/bin", "MODE=serve"],
            "user": {"uid": 33, "gid": 33},
            "capabilities": {"bounding": ["CAP_CHOWN"]},
            "noNewPrivileges": True,
        }
    }
).encode()


def document(request: Request) -> dict[str, object]:
    decoded: dict[str, object] = json.loads(execution.process_document(BUNDLE, request))
    return decoded


def test_the_containers_own_settings_hold() -> None:
    process = document(Request(argv=("id", "-u"), terminal=True))
    assert process["args"] == ["id", "-u"]
    assert process["terminal"] is True
    assert process["cwd"] == "/srv"
    assert process["user"] == {"uid": 33, "gid": 33}
    assert process["capabilities"] == {"bounding": ["CAP_CHOWN"]}
    assert process["noNewPrivileges"] is True
    assert process["apparmorProfile"] == "tight"


def test_variables_folder_and_user_are_replaced() -> None:
    request = Request(argv=("id",), workdir="/var", env=("MODE=debug", "X=1"))
    account = Account(uid=1000, gid=7, groups=(4,))
    process = json.loads(execution.process_document(BUNDLE, request, account))
    assert process["env"] == ["PATH=/bin", "MODE=debug", "X=1"]
    assert process["cwd"] == "/var"
    assert process["user"] == {"uid": 1000, "gid": 7, "additionalGids": [4]}
    assert process["capabilities"] == {"bounding": ["CAP_CHOWN"]}


def test_root_of_the_workload_has_what_its_bounding_set_allows_and_no_more() -> None:
    process = json.loads(execution.process_document(BUNDLE, Request(argv=("id",)), Account(uid=0, gid=0)))
    assert process["capabilities"] == {kind: ["CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")}


def test_a_request_comes_back_as_it_was_sent() -> None:
    request = Request(argv=("sh", "-c", "echo $A"), terminal=True, user="www-data:5", workdir="/srv", env=("A=b=c",))
    assert decode(encode(request)) == request


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []},
        {"argv": [""]},
        {"argv": ["a\0b"]},
        {"argv": ["x" * (1 << 20)]},
        {"user": "a\0b"},
        {"workdir": "srv"},
        {"workdir": "/srv/../../etc"},
        {"workdir": "/proc/self/fd/7"},
        {"workdir": "/./proc/1/root"},
        {"env": ["=x"]},
        {"env": ["A"]},
    ],
)
def test_what_is_not_a_request_is_refused(changes: dict[str, object]) -> None:
    good: dict[str, object] = {"argv": ["id"], "terminal": False, "user": "", "workdir": "", "env": []}
    decode(json.dumps(good))
    with pytest.raises(ExecRequestError):
        decode(json.dumps({**good, **changes}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"argv": 1}'])
def test_no_document_is_refused(text: str) -> None:
    with pytest.raises(ExecRequestError):
        decode(text)
