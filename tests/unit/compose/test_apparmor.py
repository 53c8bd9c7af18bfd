"""What is said of a profile that cannot be used, in the words of whoever wrote it."""

from pathlib import Path

import pytest

from hostctl.compose import apparmor
from hostctl.compose.apparmor import AppArmorError, compile_profiles, read_profiles
from hostctl.compose.tools import ToolsRoot
from hostctl.data import data_folder

TEXT = Path("/cache/a longer name/.profile")
SAID = "AppArmor parser error for {0} in profile {1} at line 3: syntax error, unexpected TOK_ID\n\n"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (SAID.format(TEXT, TEXT), "profiles/web:3: syntax error, unexpected TOK_ID"),
        (f"Warning from {TEXT}\n{SAID.format(TEXT, TEXT)}", "profiles/web:3: syntax error, unexpected TOK_ID"),
        (
            SAID.format(TEXT, "/etc/apparmor.d/abstractions/base"),
            "profiles/web: /etc/apparmor.d/abstractions/base:3: syntax error, unexpected TOK_ID",
        ),
        (f"{TEXT}: something else", "profiles/web: profiles/web: something else"),
    ],
)
def test_a_complaint_has_the_declared_file_and_the_line(said: str, expected: str) -> None:
    assert apparmor.complaint("profiles/web", TEXT, said) == expected


def test_missing_and_endless_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "web").write_text("#" * (apparmor.SOURCE_LIMIT + 1))
    with pytest.raises(AppArmorError) as caught:
        read_profiles(tmp_path, ["web", "db", "cache"])
    assert caught.value.details == "db\ncache"
    with pytest.raises(AppArmorError) as caught:
        compile_profiles(read_profiles(tmp_path, ["web"]), ToolsRoot(tmp_path), tmp_path)
    assert "web: it is longer than 256 KiB" in caught.value.details


def test_the_largest_compiled_profile_is_one_write_on_a_host() -> None:
    unit = (data_folder("units") / "host/hostctl-apparmor.service").read_text()
    assert f"bs={apparmor.POLICY_LIMIT >> 20}M" in unit
    assert f"/{apparmor.FOLDER}/*" in unit
