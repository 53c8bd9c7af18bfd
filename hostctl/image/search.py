"""Looks for images by a word: on Docker Hub by its search, on other registries in the list of what they have.

What registries answer is bounded and made harmless: names that are none are left out, texts become one printable line.
Sources: moby, registry/search_endpoint_v1.go (``/v1/search``); distribution-spec v1.0, "Listing Repositories"
(``/v2/_catalog``, pages by ``n`` and ``Link``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlencode, urljoin, urlsplit

from hostctl.config.references import DOCKER_HUB
from hostctl.config.values import ImageReference
from hostctl.errors import UsageError
from hostctl.image.inquiry import Place, inquiries, place
from hostctl.image.refusal import PullError, UntrustedError
from hostctl.image.registry import Access, Mirror

HUB = Place(host="index.docker.io")
LIMIT = 25  # what Docker shows
MOST = 100  # what Docker lets be asked for
PAGE = 1000  # names of a page of a catalog
PAGES = 50
TERM = 255  # letters
DESCRIPTION = 1000  # letters

_Get = Callable[[str], tuple[object, Mapping[str, str]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One image; catalogs know no more than its name."""

    name: str
    description: str = ""
    stars: int = 0
    official: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """What was found, and whether the whole registry was looked through; ``source`` is who answered."""

    images: tuple[Found, ...]
    source: str
    complete: bool = True


def one_line(text: object, most: int = DESCRIPTION) -> str:
    """Return a stranger's text as one line that a terminal takes as nothing else."""
    if not isinstance(text, str):
        return ""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * most])
    return " ".join(shown.split())[:most]


def check_term(text: str) -> str:
    """Return what is looked for.

    Raises:
        UsageError: nobody could find it.
    """
    if not text.strip() or not text.isprintable() or len(text) > TERM:
        raise UsageError(f"a word of 1 to {TERM} printable letters is looked for")
    return text.strip()


def check_limit(text: str) -> int:
    """Return how many are wanted at most.

    Raises:
        UsageError: it is no number from 1 to :data:`MOST`.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST):
        raise UsageError(f"--limit: a number from 1 to {MOST}")
    return int(text)


def _is_name(registry: str, name: object) -> bool:
    if not isinstance(name, str) or "@" in name or ":" in name:
        return False
    try:
        ImageReference(f"{registry}/{name}")
    except ValueError:
        return False
    return True


def parse_hub(document: object, limit: int) -> tuple[Found, ...]:
    """Return what Docker Hub's search answers; entries that are none are left out.

    Raises:
        PullError: it is no such answer.
    """
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, list):
        raise PullError("Docker Hub's answer is no list of images")
    found: list[Found] = []
    for entry in results:
        if len(found) == limit:
            break
        if isinstance(entry, dict) and _is_name(DOCKER_HUB, name := entry.get("name")):
            stars = entry.get("star_count")
            found.append(
                Found(
                    name=str(name),
                    description=one_line(entry.get("description")),
                    stars=stars if type(stars) is int and 0 <= stars < 1 << 53 else 0,
                    official=entry.get("is_official") is True,
                )
            )
    return tuple(found)


def parse_catalog(document: object, registry: str) -> tuple[str, ...]:
    """Return the names of one page of a catalog; those that are none are left out.

    Raises:
        PullError: it is no such page.
    """
    names = document.get("repositories") if isinstance(document, dict) else None
    if names is None and isinstance(document, dict) and "repositories" in document:
        return ()  # what some registries say when they have nothing
    if not isinstance(names, list):
        raise PullError(f"the answer of {registry} is no list of images")
    return tuple(str(name) for name in names if _is_name(registry, name))


def next_page(url: str, headers: Mapping[str, str]) -> str | None:
    """Return where the next page is (RFC 8288), at the same place; none if there is none, or it is elsewhere."""
    found = re.search(r'<([^<>]*)>\s*;\s*rel="?next"?', headers.get("Link", ""))
    if found is None:
        return None
    try:
        target = urljoin(url, found[1])
        here, there = urlsplit(url), urlsplit(target)
    except ValueError:
        return None
    same = (here.scheme, here.netloc, here.path) == (there.scheme, there.netloc, there.path)
    return target if same and target != url else None


def matching(names: Sequence[str], term: str, prefix: str) -> tuple[str, ...]:
    """Return the names below ``prefix`` that have ``term`` in them, without the prefix, in order."""
    below = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return tuple(sorted({name for name in below if term.lower() in name.lower()}))


def _hub(term: str, limit: int, where: Place) -> Results:
    query = urlencode({"q": term, "n": limit})

    def ask(address: str, get: _Get) -> Results:
        document, _ = get(f"{address}/v1/search?{query}")
        return Results(images=parse_hub(document, limit), source=DOCKER_HUB)

    return _any_address(where, ask)


def _catalog(term: str, limit: int, where: Place, prefix: str) -> Results:
    def ask(address: str, get: _Get) -> Results:
        url: str | None = f"{address}/v2/_catalog?{urlencode({'n': PAGE})}"
        names: dict[str, None] = {}
        for _ in range(PAGES):
            if url is None:
                break
            document, headers = get(url)
            known = len(names)
            names.update(dict.fromkeys(parse_catalog(document, where.host)))
            # A page that brings nothing new is one of a registry that goes in circles.
            url = next_page(url, headers) if len(names) > known else None
        found = matching(tuple(names), term, prefix)
        images = tuple(Found(name=name) for name in found[:limit])
        return Results(images=images, source=where.host, complete=url is None)

    return _any_address(where, ask)


def _any_address(where: Place, ask: Callable[[str, _Get], Results]) -> Results:
    """Ask at the first address that answers at all."""
    *others, last = inquiries(where)
    for address, inquiry in others:
        try:
            return ask(address, inquiry.get)
        except PullError as error:
            if type(error) is not PullError and not isinstance(error, UntrustedError):
                raise  # somebody answered, and said no
    return ask(last[0], last[1].get)


def search(term: str, registry: str, limit: int, access: Access, *, hub: Place = HUB) -> Results:
    """Look for images.

    Mirrors are asked before the registry, as by a pull; Docker Hub's own search goes before them, because a mirror only
    lists what was pulled through it.

    Args:
        term: a part of the name, on Docker Hub also of the description.
        registry: host[:port].
        limit: how many at most.
        access: how the registry is reached.
        hub: where Docker Hub's search is.

    Raises:
        PullError: nobody gave a usable answer; the one of the registry itself.
    """
    own = place(registry, access, insecure=access.insecure)
    ways: list[Callable[[], Results]] = [partial(_mirror, term, limit, mirror, access) for mirror in access.mirrors]
    if registry == DOCKER_HUB:
        ways.insert(0, partial(_hub, term, limit, replace(hub, ca=access.ca)))
    else:
        ways.append(partial(_catalog, term, limit, own, ""))
    failures: list[PullError] = []
    for way in ways:
        try:
            return _as_pulled(way(), registry)
        except PullError as error:
            failures.append(error)
    raise failures[0] if registry == DOCKER_HUB else failures[-1]


def _mirror(term: str, limit: int, mirror: Mirror, access: Access) -> Results:
    host, _, rest = mirror.location.partition("/")
    return _catalog(term, limit, place(host, access, insecure=mirror.insecure), f"{rest}/" if rest else "")


def _as_pulled(results: Results, registry: str) -> Results:
    """Return the results with names that `hostctl pull` takes."""
    if registry == DOCKER_HUB:
        return results
    return replace(results, images=tuple(replace(each, name=f"{registry}/{each.name}") for each in results.images))
