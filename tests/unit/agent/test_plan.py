"""What applying would do, and why."""

from __future__ import annotations

import pytest

from hostctl.agent.generation import Pin
from hostctl.agent.outcome import Action
from hostctl.agent.plan import following, plan, with_images
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host

BASE = """
version: 1
hostname: web-1
users:
  ops: {sudo: true}
files:
  /etc/motd: {content: "hello"}
volumes: {content: {}}
workloads:
  site:
    image: registry.example/site:1
    memory: 64M
    ports: ["8080:80"]
  db:
    image: registry.example/db:1
"""


def declared(text: str = BASE) -> HostDeclaration:
    return parse_host(text, "host.yaml")


def lines(old: str | None, new: str) -> list[str]:
    return [str(action) for action in plan(declared(old) if old else None, declared(new))]


def test_nothing_changed_means_nothing_to_do() -> None:
    assert lines(BASE, BASE) == []
    assert lines(BASE, f"# a remark\n{BASE}") == []


def test_the_first_generation_makes_everything() -> None:
    planned = lines(None, BASE)
    assert planned[0] == "+ hostname hostname: first generation: web-1"
    assert "+ user ops: declared" in planned
    assert planned[-2:] == ["+ workload site: declared", "+ workload db: declared"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("hostname: web-1", "hostname: web-2", "~ hostname hostname: web-1 → web-2"),
        ("memory: 64M", "memory: 128M", "~ workload site: memory 64M → 128M"),
        ("site:1", "site:2", "~ workload site: image registry.example/site:1 → registry.example/site:2"),
        ("    memory: 64M\n", "", "~ workload site: memory 64M → none"),
        ("sudo: true", "sudo: false", "~ user ops: sudo true → false"),
        ('content: "hello"', 'content: "bye"', "~ file /etc/motd: content changed"),
        ("volumes: {content: {}}", "volumes: {content: {}, more: {}}", "+ volume more: declared"),
        ("  db:\n    image: registry.example/db:1\n", "", "- workload db: no longer declared"),
        ("hostname: web-1", "hostname: web-1\ntimezone: Europe/Berlin", "~ timezone timezone: UTC → Europe/Berlin"),
        ("hostname: web-1", "hostname: web-1\nsysctl: {vm.swappiness: '1'}", "+ sysctl vm.swappiness: declared"),
        (
            "hostname: web-1",
            "hostname: web-1\nnetwork: {lan: {match: 'en*', dhcp: true}}",
            "+ network lan: declared",
        ),
    ],
)
def test_one_change_is_one_action_with_its_reason(before: str, after: str, expected: str) -> None:
    assert before in BASE
    assert lines(BASE, BASE.replace(before, after)) == [expected]


def test_what_is_removed_goes_before_what_is_created() -> None:
    planned = lines(BASE, BASE.replace("  db:", "  store:"))
    assert planned == ["- workload db: no longer declared", "+ workload store: declared"]


def test_another_release_renders_every_workload_anew() -> None:
    old = declared()
    new = declared(BASE.replace("64M", "128M"))
    actions = plan(old, new, old_release="1", new_release="2")
    assert [(action.kind, action.area, action.subject) for action in actions] == [
        ("change", "release", "release"),
        ("change", "workload", "site"),
        ("change", "workload", "db"),
    ]
    assert "memory 64M → 128M" in actions[1].reason
    assert "release 1, now 2" in actions[2].reason


def test_a_config_that_changes_changes_the_workloads_that_use_it() -> None:
    old = f"{BASE}    configs: ['a:/a']\nconfigs: {{a: {{content: one}}, b: {{content: one}}}}\n"
    assert lines(old, old.replace("a: {content: one}", "a: {content: two}")) == [
        "~ config a: content changed",
        "~ workload db: it uses config a",
    ]
    assert lines(old, old.replace("b: {content: one}", "b: {content: two}")) == ["~ config b: content changed"]


NETWORKS = """networks:
  front: {subnet: 10.90.1.0/24}
  back: {}
"""


def test_a_network_that_changes_has_its_workloads_connected_anew_and_no_others() -> None:
    before = f"{BASE}    networks: [front]\n{NETWORKS}"
    after = before.replace("{subnet: 10.90.1.0/24}", "{subnet: 10.90.1.0/24, mtu: 1400}")
    assert lines(before, after) == [
        "~ workload-network front: mtu none → 1400",
        "~ workload db: network front changed",
    ]
    assert lines(before, before.replace("back:", "rear:")) == [
        "- workload-network back: no longer declared",
        "+ workload-network rear: declared",
    ]
    pool = f"{before}network_pool: {{ipv4: 172.20.0.0/16}}\n"
    assert lines(before, pool)[-1] == "~ workload site: network default changed"
    assert len(lines(before, pool)) == 2


def test_what_images_must_show_and_may_take_is_a_change_of_its_own() -> None:
    assert lines(BASE, f"{BASE}images: {{max_size: 2G}}\n") == ["~ images images: max_size none → 2G"]
    signed = f"{BASE}registries: {{r.example: {{signatures: {{require: digest}}}}}}\n"
    assert lines(BASE, signed) == ["+ registry r.example: declared"]


def test_another_image_under_the_same_name_is_a_change_of_the_workload() -> None:
    def pins(**digests: str) -> dict[str, Pin]:
        return {name.replace("_", ":/"): Pin(reference="r.example/x:1", digest=each) for name, each in digests.items()}

    old, new = pins(a="sha256:1", b="sha256:2", c="sha256:3", c_x="sha256:4"), pins(a="sha256:9", c="sha256:8", d="1")
    done = (
        Action(kind="change", area="workload", subject="c", reason="env changed"),
        Action(kind="change", area="replicas", subject="a", reason="replicas 1 → 2"),
    )
    found = with_images(done, old, {**new, **pins(b="sha256:2", c_x="sha256:5")})
    assert [(each.area, str(each)) for each in found] == [
        ("workload", "~ workload c: env changed, image sha256:3 → sha256:8, image of /x sha256:4 → sha256:5"),
        ("replicas", "~ replicas a: replicas 1 → 2"),
        ("workload", "~ workload a: image sha256:1 → sha256:9"),
    ]
    assert [each.cause for each in found] == ["declared", "declared", "image"]
    assert following(found) == frozenset()  # a has another number of replicas as well
    assert following(with_images((), old, new)) == {"a", "c"}
    other = {"a": Pin(reference="r.example/y:1", digest="sha256:9")}
    assert with_images((), old, other) == ()  # another name is a change of what is declared
