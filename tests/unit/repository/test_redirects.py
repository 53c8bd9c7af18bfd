from __future__ import annotations

import pytest

from hostctl.repository.errors import RedirectError
from hostctl.repository.redirects import follow, forbidden

HERE = "https://updates.example/payloads/ab/abc"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "https://updates.example/other"),
        ("abd", "https://updates.example/payloads/ab/abd"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("https://cdn.example:8443/x?y=1", "https://cdn.example:8443/x?y=1"),
        ("https://10.0.0.5/x", "https://10.0.0.5/x"),
    ],
)
def test_followed(location: str, target: str) -> None:
    assert follow(HERE, location) == target


@pytest.mark.parametrize(
    "location",
    [
        "",
        "http://updates.example/x",
        "file:///etc/passwd",
        "ftp://updates.example/x",
        "javascript:alert(1)",
        "https://[::1/x",
        "https://updates.example:99999/x",
        "https://169.254.169.254/latest",
        "https://localhost/x",
    ],
)
def test_refused(location: str) -> None:
    with pytest.raises(RedirectError):
        follow(HERE, location)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "127.0.0.1",
        "127.1",
        "::1",
        "0.0.0.0",  # noqa: S104 - nothing binds to it
        "::",
        "224.0.0.1",
        "localhost",
        "a.localhost",
    ],
)
def test_forbidden(host: str) -> None:
    assert forbidden(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "10.1.2.3", "updates.example", "2001:db8::1", "fd12::1"])
def test_allowed(host: str) -> None:
    assert not forbidden(host)
