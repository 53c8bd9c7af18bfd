"""What of the package goes onto a host: all that it needs, and nothing that only a builder can run."""

import ast
import subprocess
import sys
from pathlib import Path

import hostctl
from hostctl.compose.sources import agent_files

PACKAGE = Path(hostctl.__file__).parent


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "hostctl"}


def test_every_module_on_a_host_finds_what_it_imports() -> None:
    shipped = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in agent_files(PACKAGE)}
    left_out = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py")
    } - shipped
    missing = {
        (path.name, name)
        for path in agent_files(PACKAGE)
        for name in imported(path)
        if name.removeprefix("hostctl.") in left_out
    }
    assert not missing


BUILDER_PACKAGES = ("cryptography", "bsdiff4", "aiohttp")
"""What hostctl needs on a builder and a host does not have."""


def test_no_module_on_a_host_needs_what_only_a_builder_has() -> None:
    modules = [path.relative_to(PACKAGE.parent).with_suffix("").as_posix() for path in agent_files(PACKAGE)]
    names = sorted(name.replace("/", ".").removesuffix(".__init__") for name in modules if "__main__" not in name)
    code = f"import sys; sys.modules |= dict.fromkeys({BUILDER_PACKAGES!r}); import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_health_of_a_boot_is_judged_without_what_updates_need() -> None:
    code = "import sys, hostctl.agent.boot_health, hostctl.agent.service; print('tuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_the_agent_starts_without_what_few_of_its_tasks_need() -> None:
    packages = ("cryptography", "http.client", "jinja2", "lz4", "pyroute2", "urllib3")
    unwanted = (*packages, "hostctl.config.release", "hostctl.payload.erofs", "hostctl.update.history")
    code = f"import sys, hostctl.agent.service; print([name for name in {unwanted!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


def test_verbs_of_the_builder_stay_there() -> None:
    names = {path.relative_to(PACKAGE).as_posix() for path in agent_files(PACKAGE)}
    assert {"cli/status.py", "cli/update.py", "agent/service.py", "workload/probe.py"} <= names
    assert not {name for name in names if name.startswith("compose/")}
    assert not {"cli/build.py", "cli/vm.py", "image/build.py", "repository/publish.py"} & names
