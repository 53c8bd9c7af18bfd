"""Decoding: positions, wording, and that all problems come at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.config.load import (
    DeclarationError,
    DeclarationUnreadableError,
    load_host,
    load_release,
    parse_host,
    parse_release,
)
from hostctl.config.values import Duration, ImageReference, Name, PortMapping, VolumeMount

HEAD = "version: 1\nhostname: web-1\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ops"
COMPLETE = f"""\
version: 1
hostname: web-1
users:
  ops: {{ssh_keys: ["{KEY}"], sudo: true}}
network:
  lan: {{match: "en*", addresses: [192.0.2.10/24], gateway: 192.0.2.1, dns: [192.0.2.1]}}
timezone: Europe/Berlin
files:
  /etc/motd: {{content: "hello\\n", mode: 0600}}
sysctl: {{net.ipv4.ip_forward: 1}}
update: {{repository: "https://updates.example/", strategy: immediate}}
health:
  site: {{http: "http://localhost:8080/", within: 2m}}
registries: {{"registry.example:5000": {{insecure: true}}}}
workloads:
  site:
    image: registry.example/site:1
    env: {{VERSION: 1.10, FLAG: no, CODE: 0080}}
    ports: ["8080:80"]
    volumes: ["content:/srv"]
    memory: 64M
    cpus: 0.5
    pids: 100
    user: 1000
    capabilities: [CAP_NET_RAW]
    required: true
    healthcheck: {{http: "http://localhost/", interval: 10s}}
volumes: {{content: {{}}}}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        parse_host(text)
    lines = caught.value.render().splitlines()
    return [line.removeprefix("host.yaml:") for line in lines if line.startswith("host.yaml:")]


def test_a_complete_declaration() -> None:
    host = parse_host(COMPLETE)
    site = host.workloads[Name("site")]
    assert site.image == ImageReference("registry.example/site:1")
    assert site.ports == (PortMapping(host_port=8080, container_port=80),)
    assert site.volumes == (VolumeMount(volume=Name("content"), target="/srv"),)
    assert (site.memory, site.cpus, site.pids) == (64 << 20, 0.5, 100)
    assert site.healthcheck is not None
    assert site.healthcheck.interval == Duration(10)
    assert next(iter(host.files.values())).mode == 0o600


LIMITS = """\
version: 1
hostname: web-1
workloads:
  a:
    image: registry.example/a:1
    working_dir: /srv
    init: false
    timezone: Europe/Berlin
    labels: {team: shop}
    stop_signal: INT
    ulimits: {nofile: 1024:4096, core: unlimited}
    sysctls: {net.core.somaxconn: 512}
    tmpfs: ["/cache:size=1M"]
    cpuset: 0-1
    io: {weight: 50, read_bps: {/dev/vda: 1M}}
"""


def test_limits_and_surroundings_of_a_workload() -> None:
    made = parse_host(LIMITS).workloads[Name("a")]
    assert (made.working_dir, made.init, made.stop_signal, made.cpuset) == ("/srv", False, "SIGINT", "0-1")
    assert {str(name): str(limit) for name, limit in made.ulimits.items()} == {
        "nofile": "1024:4096",
        "core": "unlimited",
    }
    assert made.io is not None
    assert dict(made.io.read_bps) == {"/dev/vda": 1 << 20}


def test_mistakes_in_limits_are_all_shown_where_they_are() -> None:
    wrong = (
        LIMITS.replace("nofile: 1024", "nofiles: 1024")
        .replace("net.core.somaxconn", "kernel.core_pattern")
        .replace("weight: 50", "weight: 0")
        .replace("INT", "INTR")
    )
    found = problems(
        wrong + "    pids: 0\n  b: {image: registry.example/a:1, memory: 1M, memory_high: 2M, oom_score_adj: -1000}\n"
    )
    places = [line.split(": ")[0:2] for line in found]
    assert [where for _, where in places] == [
        "workloads.a.stop_signal",
        "workloads.a.ulimits.nofiles",
        "workloads.a.sysctls.kernel.core_pattern",
        "workloads.a.io.weight",
        "workloads.b.memory_high",
        "workloads.b.oom_score_adj",
    ]
    again = problems(
        LIMITS + '    network: host\n    volumes: ["v:/cache"]\n    stop_grace_period: 5m\nvolumes: {v: {}}\n'
    )
    assert [line.split(": ")[1] for line in again] == [
        "workloads.a.sysctls.net.core.somaxconn",
        "workloads.a.tmpfs[0]",
        "workloads.a.stop_grace_period",
    ]


USES = """\
version: 1
hostname: web-1
workloads:
  a:
    image: registry.example/a:1
    configs: ["site:/etc/site.conf"]
    env_from: [site]
    secrets: [db]
    env_secrets: {PASSWORD: db}
    volumes: ["/var/lib/hostctl/binds/in:/in"]
"""


def test_what_a_workload_uses_must_be_declared() -> None:
    declared = "configs: {site: {content: 'A=1'}}\nsecrets: {db: {}}\n"
    made = parse_host(USES + declared).workloads[Name("a")]
    assert (made.used_configs, made.used_secrets) == (("site",), ("db",))
    assert made.volumes[0].read_only
    found = problems(USES + "configs: {site: {content: 'no variable'}}\n")
    assert [line.split(": ")[1] for line in found] == [
        "workloads.a.env_from[0]",
        "workloads.a.secrets[0]",
        "workloads.a.env_secrets.PASSWORD",
    ]
    found = problems(USES)
    assert len(found) == 4
    clash = USES.replace("binds/in:/in", "binds/in:/etc/site.conf") + "    env: {PASSWORD: x}\n" + declared
    assert [line.split(": ")[1] for line in problems(clash)] == [
        "workloads.a.configs[0]",
        "workloads.a.env_secrets.PASSWORD",
    ]


RUNS = """\
version: 1
hostname: web-1
workloads:
  db: {image: 'r.example/a:1', healthcheck: {tcp: 'localhost:1', action: none}, notify: true}
  init: {image: 'r.example/a:1', type: job, restart: on-failure:3, depends_on: {db: {condition: healthy}}}
  web:
    image: 'r.example/a:1'
    init: false
    sockets: [8080]
    depends_on: {db: {}, init: {condition: completed}}
    cap_drop: [all]
    seccomp: profile
    devices: [/dev/fuse]
    logging: {rate_limit: 10}
  nightly: {image: 'r.example/a:1', type: job, schedule: '03:30'}
configs:
  profile:
    content: '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}]}'
"""


def test_how_workloads_run() -> None:
    made = {str(name): workload for name, workload in parse_host(RUNS).workloads.items()}
    assert {name: str(each.restarts) for name, each in made.items()} == {
        "db": "always",
        "init": "on-failure:3",
        "web": "always",
        "nightly": "no",
    }
    assert {name: each.starter for name, each in made.items()} == {
        "db": "service",
        "init": "service",
        "web": "socket",
        "nightly": "timer",
    }
    assert made["web"].used_configs == ("profile",)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("type: job, restart: on-failure:3", "type: job, restart: always", "workloads.init.restart"),
        ("type: job, schedule", "schedule", "workloads.nightly.schedule"),
        ("type: job, schedule: '03:30'", "type: job, notify: true", "workloads.nightly.notify"),
        ("    init: false\n", "", "workloads.web.sockets"),
        ("cap_drop: [all]", "cap_drop: [CHOWN]\n    capabilities: [CHOWN]", "workloads.web.cap_drop[0]"),
        ("[/dev/fuse]", "[/dev/fuse, '/dev/kvm:/dev/fuse']", "workloads.web.devices[1]"),
        ("rate_limit: 10", "rate_limit: 0", "workloads.web.logging.rate_limit"),
        ("db: {}, init", "web: {}, init", "workloads.web.depends_on.web"),
        ("db: {}, init", "dB: {}, init", "workloads.web.depends_on.dB"),
        ("db: {}, init", "cache: {}, init", "workloads.web.depends_on.cache"),
        ("db: {}, init", "nightly: {}, init", "workloads.web.depends_on.nightly"),
        ("db: {}, init", "db: {condition: completed}, init", "workloads.web.depends_on.db"),
        ("healthcheck: {tcp: 'localhost:1', action: none}, ", "", "workloads.init.depends_on.db"),
        (
            "{condition: completed}}",
            "{condition: completed, requires: true}}",
            "workloads.web.depends_on.init.requires",
        ),
        ("{condition: completed}}", "{requires: true}}", "workloads.web.depends_on.init.requires"),
        ("{}, init: {c", "{}, nightly: {requires: true}, init: {c", "workloads.web.depends_on.nightly"),
        ("{condition: healthy}", "{condition: healthy, requires: true}", "workloads.init.depends_on.db.requires"),
        ("db: {}, init", "db: {requires: true, condition: soon}, init", "workloads.web.depends_on.db.condition"),
        ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "workloads.web.seccomp"),
        ("SCMP_ACT_ERRNO", "", "workloads.web.seccomp"),
        ("seccomp: profile", "seccomp: none", "workloads.web.seccomp"),
        ("seccomp: profile", "seccomp: profile\n    apparmor: unconfined", "workloads.web.apparmor"),
        ("seccomp: profile", "seccomp: profile\n    apparmor: /usr/bin/cat", "workloads.web.apparmor"),
        ("notify: true}", "notify: true, ports: ['8080:80']}", "workloads.web.sockets[0]"),
    ],
)
def test_a_way_to_run_that_cannot_work_is_refused_where_it_stands(old: str, new: str, where: str) -> None:
    assert old in RUNS
    assert [line.split(": ")[1] for line in problems(RUNS.replace(old, new))] == [where]


def test_what_changes_beside_itself_cannot_be_required() -> None:
    """Whoever required it would be stopped with the old instance, or stay bound to it."""
    rolls = RUNS.replace("notify: true}", "notify: true, update: {order: start-first}}")
    assert parse_host(rolls).workloads[Name("db")].rolls
    (found,) = problems(rolls.replace("db: {}, init", "db: {requires: true}, init"))
    assert "workloads.web.depends_on.db.requires: 'db' has update.order: start-first" in found
    by_hand = RUNS.replace("notify: true}", "notify: true, autostart: false}")
    (found,) = problems(by_hand.replace("db: {}, init", "db: {requires: true}, init"))
    assert "workloads.web.depends_on.db.requires: 'db' has autostart: false" in found
    bound = parse_host(RUNS.replace("db: {}, init", "db: {requires: true, condition: healthy}, init"))
    assert bound.workloads[Name("web")].requires == ("db",)


def test_a_circle_of_dependencies_is_refused_everywhere() -> None:
    circle = RUNS.replace("notify: true}", "depends_on: {init: {}}}")
    assert [line.split(": ")[1] for line in problems(circle)] == [
        "workloads.db.depends_on.init",
        "workloads.init.depends_on.db",
    ]


def test_text_means_what_is_written() -> None:
    host = parse_host(COMPLETE)
    assert host.workloads[Name("site")].env == {"VERSION": "1.10", "FLAG": "no", "CODE": "0080"}
    assert dict(host.sysctl) == {"net.ipv4.ip_forward": "1"}


def test_release_with_its_version_as_text() -> None:
    release = parse_release("version: 1\nname: edge\nrelease: 2026.10\nbase: {mirror: http://mirror.example/debian}\n")
    assert release.release == "2026.10"
    assert release.base.mirror == "http://mirror.example/debian"


def test_error_has_position_path_hint_source_and_caret() -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_host(HEAD + "workloads:\n  site:\n    image: r.example/site:1\n    memroy: 64M\n")
    assert caught.value.render() == (
        "host.yaml:6:5: workloads.site.memroy: unknown setting; did you mean 'memory'?\n"
        "     6 |     memroy: 64M\n"
        "       |     ^"
    )
    assert caught.value.exit_code == 2


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        "version: 2\nusers:\n  root: {}\n  ops: {sudo: yes}\nnetwork:\n  lan: {match: en*, dhpc: true}\n"
        "  wan: {match: x}\n"
        "workloads:\n  a: {image: Nginx, restart: allways}\n  b: {pids: 5, image: r.e/x:1, memory: 64x, memory: 1G}\n"
    )
    assert [line.partition(" ")[0] for line in found] == [
        *("1:1:", "1:10:", "3:3:", "4:15:", "6:21:", "7:3:", "9:14:", "9:30:", "10:40:", "10:45:"),
    ]
    assert "the setting 'hostname' is missing" in found[0]
    assert "did you mean true?" in found[3]
    assert "already given in line 10" in found[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("network: {a: {match: x, dhcp: true, gateway: 192.0.2.1}}", "3:46: network.a.gateway: needs addresses"),
        ("network:\n  a: {match: x}", "4:3: network.a: set dhcp: true, or give addresses"),
        (
            "workloads:\n  a: {image: r.e/x:1, volumes: ['d:/x']}",
            "4:33: workloads.a.volumes[0]: volume 'd' is not declared under volumes",
        ),
        (
            "workloads:\n  a: {image: r.e/x:1, ports: ['80:1']}\n"
            "  b: {image: r.e/x:1, ports: ['81:1', '127.0.0.1:80:2']}",
            "5:39: workloads.b.ports[1]: host port 80/tcp is already published by 'a'",
        ),
        ('sysctl:\n  kernel.x: "a\\nb"', "4:13: sysctl.kernel.x: the value must be one line"),
        (
            "sysctl:\n  vm.swappiness: 1\n  vm.memfd_noexec: 0",
            "5:20: sysctl.vm.memfd_noexec: every host has it at 1, and relies on that; leave it out",
        ),
        (
            "files: {/etc/a: {content: x}, /etc/a/b: {content: y}}",
            "3:31: files./etc/a/b: /etc/a is declared as a file, so nothing can be below it",
        ),
        ("workloads: {a: {image: r.e/x:1, pids: 0}}", "3:39: workloads.a.pids: must be from 1 to 4194304"),
        ("health: {a: {tcp: nowhere}}", "3:19: health.a.tcp: 'nowhere' is not host:port"),
        (
            'workloads: {a: {image: r.e/x:1, healthcheck: {tcp: "db:1\\nkind exec"}}}',
            "3:52: workloads.a.healthcheck.tcp: 'db:1\\nkind exec' is not host:port",
        ),
        (
            "workloads: {a: {image: r.e/x:1, healthcheck: {tcp: 'db:65536'}}}",
            "3:52: workloads.a.healthcheck.tcp: '65536' is not a port from 1 to 65535",
        ),
    ],
)
def test_rules_between_settings_are_positioned(text: str, expected: str) -> None:
    assert problems(HEAD + text + "\n") == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("users:\n  ops:\n", "4:3: users.ops: a mapping of keys and values is expected; write {} for an empty one"),
        ("timezone:\n", "3:1: timezone: the value is missing"),
        ("timezone: ~\n", "3:11: timezone: the value is missing"),
        ("timezone: [UTC]\n", "3:11: timezone: this is a list, but a single value is expected"),
        ("workloads: []\n", "3:12: workloads: a mapping of keys and values is expected"),
        ("network: {a: {match: x, dhcp: true, dns: 192.0.2.1}}\n", "a list is expected; did you mean [192.0.2.1]?"),
        ("network: {a: {match: x, dhcp: True}}\n", "'True' is not true or false; did you mean true?"),
        ("network: {a: {match: x, <<: {dhcp: true}}}\n", "merge keys are not allowed; write the settings out"),
        ("users: {[a]: {}}\n", "3:9: users: this cannot be a key: a name is expected"),
        ("registries: {R.example: {}, r.example: {}}\n", "registries.r.example: this is already given in line 3"),
        ("workloads: {a: {image: r.e/x:1, pids: 010}}\n", "'010' is not a whole number"),
        ("volumes: {a: {size: 1}}\n", "volumes.a.size: unknown setting; there are none here"),
        ("update: {}\n", "3:1: update: the setting 'repository' is missing"),
        ('"a\\nb": 1\n', r"3:1: 'a\nb': unknown setting"),
    ],
)
def test_wrong_shapes(text: str, expected: str) -> None:
    (found,) = problems(HEAD + text)
    assert expected in found


def test_null_means_not_set_where_that_is_possible() -> None:
    host = parse_host(HEAD + "update: null\nvolumes:\n  data:\nworkloads: {a: {image: r.e/x:1, memory: ~}}\n")
    assert host.update is None
    assert Name("data") in host.volumes


def test_an_ipv6_address_without_quotes_is_told_to_need_them() -> None:
    """A bracket begins a list in YAML."""
    quoted = RUNS.replace("[8080]", "['[::1]:8080', '[2001:db8::1]:53/udp']")
    assert [str(each) for each in parse_host(quoted).workloads[Name("web")].sockets] == [
        "[::1]:8080",
        "[2001:db8::1]:53/udp",
    ]
    (found,) = problems(RUNS.replace("[8080]", "[[::1]:8080]"))
    assert "not YAML" in found
    assert 'an IPv6 address is written in quotes, as in "[::1]:8080"' in found


def test_tabs_and_wide_letters_keep_the_caret_in_place() -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_host(HEAD + "users: {日本: {}}\n")
    assert caught.value.render().endswith("     3 | users: {日本: {}}\n       |         ^")
    with pytest.raises(DeclarationError) as caught:
        parse_host(HEAD + "files: {/etc/a: {content: 日本, mode: x}}\n")
    assert caught.value.render().splitlines()[-1] == "       |" + " " * 39 + "^"


def test_a_file_names_itself_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_bytes(b"version: 1\nhostname: \xff\n")
    with pytest.raises(DeclarationError) as caught:
        load_host(path)
    assert caught.value.render().startswith(f"{path}:2:11: the byte 0xff is not UTF-8")
    path.write_bytes("\ufeffversion: 1\nhostname: a\n".encode())
    assert load_host(path).hostname == "a"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationUnreadableError, match="No such file"):
        load_release(tmp_path / "release.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("boot: {tries: 0}", "boot.tries: must be from 1 to 9"),
        ("boot: {cmdline: ['a b']}", "boot.cmdline: 'a b' is not one word"),
        ("boot: {cmdline: ['roothash=00']}", "is set when the release is sealed"),
        ("boot: {cmdline: [hostctl.recovery]}", "is set when the release is sealed"),
        ("limits: {esp: 1M}", "limits.esp: must be a whole number of MiB, at least 64M"),
        ("base: {mirror: defualt}", "did you mean 'default'?"),
        ("apparmor: [a, ./a]", "apparmor[1]: the file is already in the list"),
        (f"apparmor: [{', '.join(f'p{n}' for n in range(65))}]", "apparmor: must be at most 64 files"),
        ("apparmor: [a]\nboot: {cmdline: [quiet, apparmor=0]}", "boot.cmdline[1]: 'apparmor=0' turns AppArmor off"),
        ("apparmor: [a]\nboot: {cmdline: ['lsm=yama,ipe']}", "turns AppArmor off"),
        ("apparmor: [a]\nboot: {cmdline: [security=selinux]}", "turns AppArmor off"),
        ("channel: testing\nkernel: cluod", "did you mean 'cloud'?"),
    ],
)
def test_rules_of_a_release(text: str, expected: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_release(f"version: 1\nname: edge\nrelease: 1\n{text}\n")
    assert expected in caught.value.render()


def test_words_that_leave_apparmor_on_are_fine() -> None:
    words = "[lsm=apparmor,ipe, security=apparmor, apparmor=1]"
    release = parse_release(f"version: 1\nname: edge\nrelease: 1\napparmor: [a]\nboot: {{cmdline: {words}}}\n")
    assert release.apparmor == ("a",)
    parse_release("version: 1\nname: edge\nrelease: 1\nboot: {cmdline: [apparmor=0]}\n")


def test_name_and_version_must_fit_a_partition_label() -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_release("version: 1\nname: a-very-long-name-of-an-os\nrelease: 2026.11.12\n")
    assert "release.yaml:3:10: release: name and release make the partition label" in caught.value.render()
