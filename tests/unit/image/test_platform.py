"""Which image of an index is meant for this platform."""

import json
from collections.abc import Mapping

import pytest

from hostctl.image.oci import ImageFormatError, parse_index

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARM, AMD = {"os": "linux", "architecture": "arm64"}, {"os": "linux", "architecture": "amd64"}
UNKNOWN = {"os": "unknown", "architecture": "unknown"}
"""What attestations have for a platform."""


def index(*platforms: Mapping[str, str]) -> bytes:
    entries = [
        {"mediaType": MANIFEST, "digest": f"sha256:{number:064x}", "size": 2, "platform": dict(platform)}
        for number, platform in enumerate(platforms)
    ]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


@pytest.mark.parametrize(
    ("platforms", "chosen"),
    [
        ((ARM, AMD), 1),
        ((UNKNOWN, {**AMD, "variant": "v3"}, AMD, AMD), 2),
        (({**AMD, "variant": "v2"}, {**AMD, "variant": "v1"}), 1),
    ],
)
def test_the_image_that_runs_on_every_machine_is_chosen(platforms: tuple[Mapping[str, str], ...], chosen: int) -> None:
    assert parse_index(index(*platforms)).digest == f"sha256:{chosen:064x}"


def test_an_image_for_others_says_for_whom() -> None:
    with pytest.raises(ImageFormatError, match="not made for linux/amd64") as caught:
        parse_index(index({**ARM, "variant": "v8"}, {"os": "windows", "architecture": "amd64"}, UNKNOWN))
    assert caught.value.details == "it is for linux/arm64/v8, windows/amd64"
