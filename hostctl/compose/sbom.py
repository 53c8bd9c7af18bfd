"""The bill of materials of a release: SPDX 2.3 JSON, made from the lock alone and the same each time."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from urllib.parse import quote

from hostctl.compose.lock import Lock, format_lock
from hostctl.compose.packages import Package

NAMESPACE = "https://spdx.org/spdxdocs/hostctl"


def package_url(package: Package) -> str:
    """Return the purl of a Debian package (purl specification, type deb)."""
    version = quote(package.version, safe="~")
    return f"pkg:deb/debian/{quote(package.name, safe='')}@{version}?arch={package.architecture}"


def _element(package: Package) -> dict[str, object]:
    locator = {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": package_url(package),
    }
    return {
        "SPDXID": f"SPDXRef-{package.sha256[:32]}",
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": package.url,
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": package.sha256}],
        "externalRefs": [locator],
    }


def make_sbom(name: str, version: str, lock: Lock) -> str:
    """Return the SPDX document of what a release's image holds; the tools of the build are not in it.

    Args:
        name: name of the image.
        version: version of the release.
        lock: its lock; ``source_date_epoch`` is the document's date.
    """
    packages = sorted({*lock.host, *lock.kernel})
    digest = hashlib.sha256(f"{name}\n{version}\n{format_lock(lock)}".encode()).hexdigest()
    described = [
        {
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relationshipType": "DESCRIBES",
            "relatedSpdxElement": f"SPDXRef-{package.sha256[:32]}",
        }
        for package in packages
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
        "packages": [_element(package) for package in packages],
        "relationships": described,
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
