"""What a command inside a workload gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostctl.agent import execution
from hostctl.agent.execution import ExecRequestError, NotRunningError, Request

BUNDLE = json.dumps(
    {
        "process": {
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


def test_variables_and_user_are_replaced() -> None:
    process = document(Request(argv=("id",), uid=1000, gid=None, env=("MODE=debug", "X=1")))
    assert process["env"] == ["PATH=/bin", "MODE=debug", "X=1"]
    assert process["user"] == {"uid": 1000, "gid": 0}


def test_a_request_comes_back_as_it_was_sent() -> None:
    request = Request(argv=("sh", "-c", "echo $A"), terminal=True, uid=0, gid=5, env=("A=b=c",))
    assert execution.decode(execution.encode(request)) == request


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []},
        {"argv": [""]},
        {"uid": -1},
        {"uid": 65536},
        {"uid": "root"},
        {"gid": "0x"},
        {"env": ["=x"]},
        {"env": ["A"]},
    ],
)
def test_what_is_not_a_request_is_refused(changes: dict[str, object]) -> None:
    good = {"argv": ["id"], "terminal": False, "uid": None, "gid": None, "env": []}
    execution.decode(json.dumps(good))
    with pytest.raises(ExecRequestError):
        execution.decode(json.dumps({**good, **changes}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"argv": 1}'])
def test_no_document_is_refused(text: str) -> None:
    with pytest.raises(ExecRequestError):
        execution.decode(text)


def test_the_cgroup_is_that_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text("1:cpu:/x\n0::/system.slice/workload-site.service\n")
    expected = tmp_path / "sys/fs/cgroup/system.slice/workload-site.service"
    assert execution.cgroup_of(7, tmp_path) == expected
    (tmp_path / "proc/7/cgroup").write_text("1:cpu:/x\n")
    with pytest.raises(NotRunningError):
        execution.cgroup_of(7, tmp_path)
