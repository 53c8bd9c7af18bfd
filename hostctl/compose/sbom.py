"""The bill of materials of a release: SPDX 2.3 JSON, made from the lock and the names of baked images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from hostctl.compose.lock import Lock, format_lock
from hostctl.compose.packages import Package
from hostctl.config.values import ImageReference

NAMESPACE = "https://spdx.org/spdxdocs/hostctl"


def package_url(package: Package) -> str:
    """Return the purl of a Debian package (purl specification, type deb)."""
    version = quote(package.version, safe="~")
    return f"pkg:deb/debian/{quote(package.name, safe='')}@{version}?arch={package.architecture}"


def image_url(reference: ImageReference, digest: str) -> str:
    """Return the purl of an OCI image (purl specification, type oci)."""
    name = reference.repository.rpartition("/")[2]
    query = f"repository_url={quote(f'{reference.registry}/{reference.repository}', safe='/:')}"
    tag = f"&tag={quote(reference.tag)}" if reference.tag else ""
    return f"pkg:oci/{quote(name, safe='')}@{quote(digest, safe='')}?{query}{tag}"


def _element(name: str, version: str, sha256: str, location: str, purl: str) -> dict[str, object]:
    locator = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
    return {
        "SPDXID": f"SPDXRef-{sha256[:32]}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": location,
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "externalRefs": [locator],
    }


def _package(package: Package) -> dict[str, object]:
    return _element(package.name, package.version, package.sha256, package.url, package_url(package))


def _image(reference: ImageReference, digest: str) -> dict[str, object]:
    sha256 = digest.removeprefix("sha256:")
    return _element(str(reference), digest, sha256, "NOASSERTION", image_url(reference, digest))


def make_sbom(name: str, version: str, lock: Lock, images: Mapping[ImageReference, str]) -> str:
    """Return the SPDX document of what a release's image holds; the tools of the build are not in it.

    Args:
        name: name of the image.
        version: version of the release.
        lock: its lock; ``source_date_epoch`` is the document's date.
        images: manifest digests of the container images that are baked in, by reference.
    """
    elements = [_package(package) for package in sorted({*lock.host, *lock.kernel})]
    elements += [_image(reference, digest) for reference, digest in sorted(images.items())]
    identity = "\n".join((name, version, format_lock(lock), *map(str, sorted(images.items()))))
    digest = hashlib.sha256(identity.encode()).hexdigest()
    described = [
        {
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relationshipType": "DESCRIBES",
            "relatedSpdxElement": element["SPDXID"],
        }
        for element in elements
    ]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name}_{version}",
        "documentNamespace": f"{NAMESPACE}/{name}_{version}-{digest}",
        "creationInfo": {
            "created": datetime.fromtimestamp(lock.source_date_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: hostctl"],
        },
        "packages": elements,
        "relationships": described,
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
