"""The bill of materials: deterministic, of the image's packages only."""

from __future__ import annotations

import json
from dataclasses import replace

from hostctl.compose.lock import Lock
from hostctl.compose.packages import Package
from hostctl.compose.sbom import make_sbom, package_url
from hostctl.config.values import ImageReference

A = Package(name="g++", version="1:2+b", architecture="amd64", sha256="a" * 64, size=3, url="http://mirror.test/a.deb")
B = replace(A, name="tool", sha256="b" * 64)
LOCK = Lock(
    suite="trixie", mirror="m", flavour="cloud", source_date_epoch=0, requested=(), host=(A,), kernel=(A,), tools=(B,)
)


def test_document() -> None:
    document = json.loads(make_sbom("edge", "1", LOCK, {}))
    assert [package["name"] for package in document["packages"]] == ["g++"]
    assert document["creationInfo"]["created"] == "1970-01-01T00:00:00Z"


def test_baked_images_are_listed_by_digest() -> None:
    digest = f"sha256:{'c' * 64}"
    images = {ImageReference("localhost:5000/team/site:1"): digest}
    made = json.loads(make_sbom("edge", "1", LOCK, images))
    entry = made["packages"][-1]
    assert entry["name"] == "localhost:5000/team/site:1"
    expected = f"pkg:oci/site@sha256%3A{'c' * 64}?repository_url=localhost:5000/team/site&tag=1"
    assert entry["externalRefs"][0]["referenceLocator"] == expected
    assert entry["SPDXID"] in [each["relatedSpdxElement"] for each in made["relationships"]]
    assert made["documentNamespace"] != json.loads(make_sbom("edge", "1", LOCK, {}))["documentNamespace"]


def test_purl() -> None:
    assert package_url(A) == "pkg:deb/debian/g%2B%2B@1%3A2%2Bb?arch=amd64"


def test_namespace_follows_the_content() -> None:
    one, other = make_sbom("edge", "1", LOCK, {}), make_sbom("edge", "1", replace(LOCK, host=(B,)), {})
    assert one == make_sbom("edge", "1", LOCK, {})
    assert json.loads(one)["documentNamespace"] != json.loads(other)["documentNamespace"]
