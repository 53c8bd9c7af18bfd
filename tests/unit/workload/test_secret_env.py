"""Secrets as environment variables: what is written, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl.workload import secret_env


def test_a_secrets_value_loses_the_end_of_its_last_line_alone() -> None:
    assert secret_env.variable("A", b"x\n\n") == "A=x\n"
    assert secret_env.variable("A", b"x=y z") == "A=x=y z"


@pytest.mark.parametrize("data", [b"a\0b", b"\xff"])
def test_what_cannot_be_a_variable_is_refused(data: bytes) -> None:
    with pytest.raises(secret_env.SecretValueError, match="secret for A"):
        secret_env.variable("A", data)


def test_the_bare_program_writes_a_file_for_root_alone(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"hush\n")
    template = {"process": {"env": ["A=1", "B=2"]}, "root": {}}
    (tmp_path / "config.json").write_text(json.dumps(template))
    program, target = Path(secret_env.__file__), tmp_path / "made"
    target.mkdir()
    argv: list[str | Path] = [sys.executable, "-I", "-S", program, tmp_path, target, "config.json", "B=db"]
    subprocess.run(argv, check=True, env={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert json.loads((target / "config.json").read_bytes()) == {"process": {"env": ["A=1", "B=hush"]}, "root": {}}
    assert (target / "config.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.iterdir()] == ["config.json"]


def test_the_process_of_a_check_has_them_too(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"hush\n")
    (tmp_path / "config.json").write_text(json.dumps({"process": {"env": ["A=1"]}}))
    (tmp_path / "health-process.json").write_text(json.dumps({"args": ["/bin/ok"], "env": ["A=1"]}))
    target = tmp_path / "made"
    target.mkdir()
    (target / "health-process.json").write_text("that of before")
    assert (
        secret_env.main(str(tmp_path), str(target), ["config.json", "health-process.json"], ["B=db"], str(tmp_path))
        == 0
    )
    made = target / "health-process.json"
    assert json.loads(made.read_bytes()) == {"args": ["/bin/ok"], "env": ["A=1", "B=hush"]}
    assert made.stat().st_mode & 0o777 == 0o600
