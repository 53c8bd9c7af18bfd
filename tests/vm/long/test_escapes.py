"""Ways out of a container that other runtimes had, tried on ours; each is named by where it was first seen.

What is compared is the host's: files, mounts, owners, the runtime itself. Numbers E1 to E15 count them through.
"""

import json
from collections.abc import Iterator

import pytest
from hostctl_lab.crafted import Crafted, craft, program_of
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry
from hostctl_lab.releases import Lab

BOX = "/bin/busybox"
PYTHON = "/usr/bin/python3"
VICTIM = "/etc/motd"
READY_SECONDS = 60.0
LINKS = {"dev/null": VICTIM, "dev/console": VICTIM, "dev/ptmx": VICTIM, "dev/pts/0": VICTIM, "dev/stdout": VICTIM}
PROBE = """
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    return -ctypes.get_errno() if libc.syscall(number, *arguments) == -1 else 0
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
print(json.dumps({
    "unshare user": call(272, CLONE_NEWUSER),
    "unshare mount": call(272, CLONE_NEWNS),
    "mount": call(165, b"x", b"/srv", b"tmpfs", 0, 0),
    "fsopen": call(430, b"ext4", 0),
    "open_tree": call(428, -100, b"/", 1),
    "io_uring_setup": call(425, 8, ctypes.create_string_buffer(120)),
    "bpf": call(321, 0, 0, 0),
    "kexec_load": call(246, 0, 0, 0, 0),
    "init_module": call(175, 0, 0, 0),
    "open_by_handle_at": call(304, 0, 0, 0),
    "reboot": call(169, 0, 0, 0, 0),
}))
"""


@pytest.fixture(scope="module")
def crafted(lab: Lab, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Return the registry with hostile images."""
    busybox = program_of(lab.image(), "usr/bin/busybox")
    images = {
        "links": Crafted(links=LINKS, annotations={"run.oci.handler": "krun", "run.oci.hooks.stdout": "/x"}),
        "exe": Crafted(scripts={"evil": "#!/proc/self/exe\\n"}),
        "cwd": Crafted(config={"WorkingDir": "/proc/self/fd/8"}),
        "cwd-link": Crafted(links={"work": "/proc/self/fd/8"}, config={"WorkingDir": "/work"}),
        "proc": Crafted(links={"proc": "/etc"}),
        "dev": Crafted(links={"dev": "/etc"}),
        "sys": Crafted(links={"sys": "/etc"}),
        "named": Crafted(config={"User": "daemon"}),
    }
    for name, image in images.items():
        registry.push(f"oci:{craft(image, busybox, tmp_path_factory.mktemp(name) / 'layout')}", f"{name}:1")
    registry.push(f"oci-archive:{lab.image('py')}", "py:1")
    yield registry


def workload(registry: Registry, image: str, name: str = "", more: str = "") -> str:
    """Return the declaration of one workload."""
    return f"  {name or image}: {{image: '{registry.guest_address}/{image}:1', network: none{more}}}\n"


@pytest.fixture(scope="module")
def wanted(declaration: str, crafted: Registry) -> str:
    """Return a declaration of workloads that all start."""
    python = f", command: [{PYTHON}, -c, 'import time; time.sleep(1000000)']"
    race = f", volumes: ['shared:/shared'], command: [{BOX}, sleep, '1000000']"
    return f"""{declaration}\
registries: {{"{crafted.guest_address}": {{insecure: true}}}}
volumes: {{shared: {{}}, inner: {{}}}}
workloads:
{workload(crafted, "links")}\
{workload(crafted, "exe")}\
{workload(crafted, "exe", "racer", race)}\
{workload(crafted, "py", "py", python)}\
"""


@pytest.fixture(scope="module", autouse=True)
def applied(host: Host, wanted: str) -> None:
    """Bring them up."""
    host.apply(wanted, seconds=600)
    host.wait_for("they run", lambda: len(host.text("crun", "list", "-q").split()) == 4, READY_SECONDS)


def state(host: Host) -> str:
    """Return what of the host no container may change."""
    return host.shell(
        "sha256sum /usr/bin/crun /usr/bin/python3 /etc/motd /etc/passwd; stat -L -c '%n %a %u %g' /dev/null "
        "/dev/console /etc/motd /etc/passwd /proc/sysrq-trigger; "
        "cat /proc/sys/kernel/core_pattern; ls -l /dev/console /dev/ptmx"
    )


def inside(host: Host, name: str, script: str) -> str:
    """Return what a script prints inside a workload, as its root, whatever becomes of it."""
    done = host.run("hostctl", "exec", "--user", "0", name, "--", BOX, "sh", "-c", script, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def on_a_terminal(host: Host, *argv: str) -> str:
    """Run a command on a terminal of the host's and return what it showed."""
    program = "import pty, sys; sys.exit(0 if pty.spawn(sys.argv[1:]) is not None else 1)"
    return host.text(PYTHON, "-c", program, *argv)


def test_e1_the_runtime_is_not_written_through_proc_self_exe(host: Host) -> None:
    before = state(host)
    writer = f"for n in {BOX} /proc/[0-9]*/exe; do echo overwritten > $n; done"
    for _ in range(2):
        host.run("hostctl", "exec", "exe", "--", "/evil", check=False)
        said = inside(host, "exe", f"({writer}) 2>&1; /evil & {writer}")
        assert "/exe" in said
    assert state(host) == before
    assert host.text("hostctl", "exec", "py", "--", PYTHON, "-c", "print(1)") == "1"


def test_e2_no_working_folder_in_proc_and_no_descriptor_of_the_runtime(
    host: Host, crafted: Registry, wanted: str
) -> None:
    said = host.fails("hostctl", "apply", "-", stdin=wanted + workload(crafted, "cwd"), seconds=300)
    assert "wants to start in '/proc/self/fd/8'" in said
    for name in ("links", "py"):
        listed = inside(host, name, f"{BOX} ls -l /proc/self/fd /proc/1/fd 2>&1")
        open_files = [line.split(" -> ")[1] for line in listed.splitlines() if " -> " in line]
        assert open_files
        allowed = ("/usr/share/hostctl/empty", "/dev/null", "pipe:", "socket:", "/proc/", "anon_inode:", "pidfd:")
        assert all(path.startswith(allowed) for path in open_files), listed
    # The folder is a link to a descriptor: it is followed inside, where there is none.
    host.run("hostctl", "apply", "-", stdin=wanted + workload(crafted, "cwd-link"), check=False, seconds=300)
    for _ in range(3):
        said = inside(host, "cwd-link", f"{BOX} cat /proc/1/cwd/../../../../{VICTIM} /proc/1/cwd/etc/hostname")
        assert "first" not in said
        assert "web-1" not in said
    host.apply(wanted)


def test_e3_e15_device_links_of_an_image_change_nothing_of_the_host(host: Host) -> None:
    before = state(host)
    for _ in range(3):
        host.text("systemctl", "restart", "workload-links.service")
    script = (
        f"for f in /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; do {BOX} stat -c '%F' $f; done; "
        f"for f in /proc/kcore /proc/keys /proc/timer_list; do {BOX} head -c 100 $f; done; "
        f"echo x > /proc/sys/kernel/core_pattern; echo c > /proc/sysrq-trigger; {BOX} chown 5 /dev/null; "
        f"{BOX} cat /etc/motd"
    )
    said = inside(host, "links", script)
    assert said.count("character special file") == 6
    # crun gives what stands behind its standard streams to the container's root.
    assert host.text("stat", "-c", "%U:%G %a", "/dev/null") == "root:root 666"
    assert "first" not in said
    assert state(host) == before


def test_e4_e14_a_terminal_does_not_reach_a_file_of_the_host(host: Host) -> None:
    before = state(host)
    for _ in range(4):
        said = on_a_terminal(host, "hostctl", "exec", "links", "--", BOX, "sh", "-c", "tty; echo typed > /dev/console")
        assert "/dev/pts/" in said or "/dev/console" in said
    assert state(host) == before


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_e5_e6_an_image_whose_mount_points_are_links_is_refused(
    host: Host, crafted: Registry, wanted: str, name: str
) -> None:
    before = state(host)
    said = host.fails("hostctl", "apply", "-", stdin=wanted + workload(crafted, name), seconds=300)
    assert f"/{name} is no folder" in said
    assert state(host) == before


@pytest.mark.parametrize("user", ["", "0x", "1:", "someone", "65536"])
def test_e7_a_user_that_is_neither_a_number_nor_in_the_image_is_never_root(host: Host, user: str) -> None:
    said = host.fails("hostctl", "exec", f"--user={user}", "py", "--", PYTHON, "-c", "print('ran')")
    assert "ran" not in said


def test_e8_nothing_is_inherited_and_no_other_handler_runs_it(host: Host) -> None:
    for name in ("links", "exe"):
        status = inside(host, name, f"{BOX} cat /proc/1/status; {BOX} cat /proc/self/status")
        assert [line.split()[1] for line in status.splitlines() if line.startswith("CapInh")] == ["0" * 16] * 2
    annotations = json.loads(host.text("crun", "state", "links")).get("annotations") or {}
    assert not [key for key in annotations if key.startswith("run.oci")]


def test_e9_e13_calls_that_reach_the_kernel_are_refused(host: Host) -> None:
    results = json.loads(host.text("hostctl", "exec", "--user", "0", "py", "--", PYTHON, "-c", PROBE))
    assert {name for name, result in results.items() if result == 0} == set(), results
    assert set(results.values()) <= {-1, -38, -13}, results
    assert host.text("cat", "/proc/sys/kernel/io_uring_disabled") == "2"
    assert host.text("cat", "/proc/sys/kernel/unprivileged_bpf_disabled") in ("1", "2")


def test_e10_no_name_is_looked_up_in_an_image(host: Host, crafted: Registry, wanted: str) -> None:
    said = host.fails("hostctl", "apply", "-", stdin=wanted + workload(crafted, "named"), seconds=300)
    assert "wants to run as user 'daemon', a name" in said


def test_e11_a_folder_that_is_exchanged_for_a_link_while_it_is_mounted_on_stays_inside(
    host: Host, crafted: Registry, wanted: str
) -> None:
    swap = (
        "import ctypes, os\n"
        "os.makedirs('/shared/place', exist_ok=True)\n"
        "if not os.path.islink('/shared/link'): os.symlink('/', '/shared/link')\n"
        "libc = ctypes.CDLL(None)\n"
        "while True: libc.renameat2(-100, b'/shared/place', -100, b'/shared/link', 2)\n"
    )
    more = f", volumes: ['shared:/shared'], command: [{PYTHON}, -c, {json.dumps(swap)}]"
    victim = f", volumes: ['shared:/shared', 'inner:/shared/place'], command: [{BOX}, sleep, '1000000'], restart: 'no'"
    text = wanted + workload(crafted, "py", "swapper", more) + workload(crafted, "exe", "victim", victim)
    before, mounts = state(host), host_mounts(host)
    host.run("hostctl", "apply", "-", stdin=text, check=False, seconds=300)
    started = 0
    for _ in range(8):
        done = host.run("systemctl", "restart", "workload-victim.service", check=False)
        started += done.status == 0
        seen = inside(host, "victim", f"{BOX} cat /etc/motd /proc/self/mountinfo /var/lib/hostctl/current/host.yaml")
        assert "first" not in seen
        assert "ssh_keys" not in seen
    assert state(host) == before
    host.apply(wanted)
    assert host_mounts(host) == mounts


def host_mounts(host: Host) -> set[str]:
    """Return where something is mounted on the host, but for what belongs to workloads, sessions and units."""
    targets = {line.split()[1] for line in host.text("cat", "/proc/mounts").splitlines()}
    return {target for target in targets if not target.startswith(("/run/hostctl", "/run/credentials", "/run/user"))}


def test_every_container_has_the_devices_and_links_of_the_runtime_specification(host: Host) -> None:
    """Runtime-spec 1.2, config-linux.md: "Default Devices", "Default Filesystems", and "/dev symbolic links"."""
    links = inside(host, "links", f"for l in fd stdin stdout stderr ptmx; do {BOX} readlink /dev/$l; done").split()
    assert links[:4] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"]
    assert links[4].endswith("pts/ptmx")
    numbers = inside(host, "links", f"cd /dev; {BOX} stat -c '%n %t:%T' null zero full random urandom tty").splitlines()
    assert numbers == ["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"]
    mounts = {
        line.split()[1]: line.split()[2] for line in inside(host, "links", f"{BOX} cat /proc/mounts").splitlines()
    }
    expected = {"/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue"}
    assert {path: mounts.get(path) for path in expected} == expected


def test_paths_are_masked_and_read_only_as_the_bundle_says(host: Host) -> None:
    """Runtime-spec 1.2, config-linux.md: "Masked Paths", "Readonly Paths": not readable, not writable."""
    linux = json.loads(host.text("cat", "/var/lib/hostctl/current/bundles/links/config.json"))["linux"]
    for path in linux["maskedPaths"]:
        said = inside(
            host, "links", f"[ ! -e {path} ] || {BOX} find {path} -mindepth 1; [ -d {path} ] || {BOX} cat {path}"
        )
        assert said == "" or "No such file" in said or "denied" in said, (path, said)
    for path in linux["readonlyPaths"]:
        said = inside(host, "links", f"[ ! -e {path} ] || {BOX} grep ' {path} ' /proc/mounts | {BOX} tail -1")
        assert said == "" or said.split()[3].startswith("ro"), (path, said)


def test_namespaces_mappings_and_the_cgroup_are_those_of_the_bundle(host: Host) -> None:
    """Runtime-spec 1.2, config-linux.md: "Namespaces", "User namespace mappings", "Cgroup ownership"."""
    first = 0x10000000
    low, high, size = map(int, inside(host, "links", f"{BOX} cat /proc/self/uid_map").split())
    assert (low, size) == (0, 65536)
    assert high >= first
    assert inside(host, "links", f"{BOX} cat /proc/self/cgroup").strip() == "0::/"
    assert "Read-only" in inside(host, "links", f"{BOX} mkdir /sys/fs/cgroup/mine")
    assert inside(host, "links", f"{BOX} cat /proc/1/comm").strip() in ("catatonit", "init")
