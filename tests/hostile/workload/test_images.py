"""What a hostile image says can neither reach a unit file nor widen what its container may do."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hostctl.config.values import ImageReference
from hostctl.config.workload import Workload
from hostctl.image.oci import ImageConfig
from hostctl.image.store import StoredImage
from hostctl.workload import bundle, root_plan, units
from hostctl.workload.spec import Network, WorkloadError, WorkloadSpec

PROFILE = b'{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": []}'
PROBE = Path("/usr/lib/probe.py")
HARMLESS = ImageConfig(diff_ids=(), cmd=("/bin/web",))
TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["a\nExecStart=/bin/evil", "%n", "$HOME", '"', "\\", "../..", "/proc/self/fd/7", "a b", "é"]),
)


def spec(config: ImageConfig) -> WorkloadSpec:
    image = StoredImage(reference="r/s:1", digest="sha256:" + "1" * 64, config=config, layers=(), bytes=1)
    workload = Workload(image=ImageReference.parse("registry.example/web:1"))
    network = Network(addresses=("10.88.0.2",), name_servers=("10.88.0.1",))
    return WorkloadSpec(name="web", workload=workload, image=image, range_number=0, network=network)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(TEXT, min_size=1, max_size=4), value=TEXT)
def test_words_of_an_image_change_no_unit_and_only_the_command_and_environment_of_the_bundle(
    words: list[str], value: str
) -> None:
    hostile = spec(ImageConfig(diff_ids=(), entrypoint=tuple(words), cmd=(value,), env=(f"A={value}",)))
    assert units.render(hostile, PROBE, PROBE, PROBE) == units.render(spec(HARMLESS), PROBE, PROBE, PROBE)
    made, plain = (json.loads(bundle.render(each, PROFILE)["config.json"]) for each in (hostile, spec(HARMLESS)))
    assert made["process"]["args"] == ["/dev/init", "--", *words, value]
    for document in (made, plain):
        del document["process"]["args"], document["process"]["env"]
    assert made == plain


@settings(max_examples=60, deadline=None)
@given(user=TEXT, folder=TEXT, stop=TEXT)
def test_a_user_folder_and_signal_are_sound_or_refused(user: str, folder: str, stop: str) -> None:
    hostile = spec(ImageConfig(diff_ids=(), cmd=("x",), user=user, working_dir=f"/{folder}", stop_signal=stop))
    try:
        made = units.render(hostile, PROBE, PROBE, PROBE)
        process = json.loads(bundle.render(hostile, PROFILE)["config.json"])["process"]
    except (WorkloadError, units.UnitValueError):
        return
    assert all(0 <= number < 65536 for number in process["user"].values())
    assert process["cwd"].startswith("/")
    assert not process["cwd"].startswith("/proc")
    service = made["systemd/system/workload-web.service"]
    assert [line for line in service.splitlines() if line.startswith("ExecStart=")] == [
        line for line in service.splitlines() if line.startswith("ExecStart=/usr/bin/crun ")
    ]
    assert ".." not in [part for path in root_plan.plan(hostile).folders for part in path.split("/")]
