"""The agent's methods on images: each holds the machine's write lock and gives the store what the declaration says.

What a generation needs is never removed, whatever is asked.
"""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from dataclasses import asdict

from hostctl.agent import event_log, exclusive, generation, images
from hostctl.agent.bus import Call, Method
from hostctl.config.values import RegistryHost
from hostctl.errors import UsageError
from hostctl.image import lookup, retention
from hostctl.image.credentials import SECRET_BYTES, CredentialError, encode
from hostctl.image.registry import Skopeo, access
from hostctl.image.room import ImageStoreError
from hostctl.image.store import ImageStore, StoredImage
from hostctl.layout import HostLayout

SEARCHED = ("term", "registry", "limit")
PATIENCE = 3600.0  # seconds that others may change the machine before: a pull of theirs may take so long
LOGGED_IN = ("registry", "user", "password")


class ImageInUseError(ImageStoreError):
    """A generation needs the image."""

    id = "image-in-use"


def document(image: StoredImage) -> dict[str, object]:
    """Return an image as it goes over the bus."""
    return {"reference": image.reference, "digest": image.digest, "id": image.id, "bytes": image.bytes}


def users(layout: HostLayout, digest: str) -> tuple[str, ...]:
    """Return which workloads of which generations need an image."""
    stored = [generation.load(layout.generations / str(number)) for number in generation.numbers(layout)]
    return tuple(
        f"workload {name} of generation {each.record.number}"
        for each in stored
        for name, pin in (*each.record.images.items(), *each.record.mounted.items())
        if pin.digest == digest
    )


def registry_host(text: str) -> RegistryHost:
    """Return the registry that ``text`` names.

    Raises:
        UsageError: it is none.
    """
    try:
        return RegistryHost(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _note(action: str, image: StoredImage, name: str = "") -> None:
    event_log.write(action, name or image.reference or image.id, kind="image", id=image.id, digest=image.digest)


class ImageService:
    """The methods, for the machine below a layout."""

    def __init__(self, layout: HostLayout) -> None:
        self._layout = layout

    def _store(self) -> ImageStore:
        return images.open_store(self._layout, images.declared(self._layout))

    def _lock(self, call: Call) -> AbstractContextManager[None]:
        """Hold the machine's lock; two that bring images wait for each other, as somebody asked for both."""
        return exclusive.lock(self._layout, wait=PATIENCE, notify=call.notify)

    def pull(self, call: Call) -> str:
        """Pull the image of a reference, as the name stands now. Returns it."""
        reference = lookup.reference(call.arguments[0])
        with self._lock(call):
            declaration = images.declared(self._layout)
            store = images.open_store(self._layout, declaration)
            pull = images.Registries(layout=self._layout, declaration=declaration, store=store, notify=call.notify)
            image = pull(reference, reference.digest)
            _note("pull", image)
            return json.dumps(document(image))

    def search(self, call: Call) -> str:
        """Look for images: arguments are a word, a registry and the most that are wanted. Returns what was found."""
        from hostctl.image import search  # noqa: PLC0415 - only for this method

        term, registry = search.check_term(call.arguments[0]), registry_host(call.arguments[1])
        wanted = search.check_limit(call.arguments[2])
        reach = access(images.declared(self._layout), registry, images.credential_store(self._layout).get)
        return json.dumps(asdict(search.search(term, registry, wanted, reach)))

    def push(self, call: Call) -> str:
        """Push an image to the registry that its name says. Returns the name, and the digest that it has there."""
        from hostctl.image import export  # noqa: PLC0415 - only for this method

        reference = lookup.reference(call.arguments[0])
        if reference.digest:
            raise UsageError(f"{reference} has a digest; what is pushed gets its own", hint="give a name with a tag")
        with self._lock(call):
            declaration = images.declared(self._layout)
            store = images.open_store(self._layout, declaration)
            reach = access(declaration, reference.registry, images.credential_store(self._layout).get)
            image = lookup.find(store, str(reference))
            skopeo = Skopeo(runtime=self._layout.runtime / "registries")
            digest = export.push(store, image, reference, access=reach, skopeo=skopeo, notify=call.notify)
            _note("push", image, str(reference))
            return json.dumps({"reference": str(reference), "digest": digest})

    def save(self, call: Call) -> str:
        """Write an archive of images to a file or pipe: the argument is a JSON list of names and ids. Returns them."""
        from hostctl.image.export import save_stream  # noqa: PLC0415 - only for this method

        wanted = json.loads(call.arguments[0])
        if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
            raise UsageError("a list of names is needed")
        store = self._store()
        found: dict[str, tuple[StoredImage, list[str]]] = {}
        for name in wanted:
            image = lookup.find(store, name)
            names = found.setdefault(image.digest, (image, []))[1]
            names += [image.reference] if lookup.is_named(image, name) and image.reference not in names else []
        with os.fdopen(os.dup(call.descriptors[0]), "wb") as file:
            save_stream(store, list(found.values()), file)
        for image, _ in found.values():
            _note("save", image)
        return json.dumps([document(image) for image, _ in found.values()])

    def tag(self, call: Call) -> str:
        """Give an image a name more: arguments are a name or id, and the new name. Returns the image."""
        source, target = call.arguments
        wanted = lookup.reference(target)
        if wanted.digest:
            raise lookup.UnknownImageError(f"{target} has a digest, which is no name to give")
        with self._lock(call):
            store = self._store()
            image = store.name(lookup.find(store, source), str(wanted))
            _note("tag", image, str(wanted))
            return json.dumps(document(image))

    def remove(self, call: Call) -> str:
        """Take a name or an id away, and the image with its last name. Returns names and digests that are gone."""
        with self._lock(call):
            store = self._store()
            image = lookup.find(store, call.arguments[0])
            names = [name for name, digest in store.names().items() if digest == image.digest]
            if len(names) > 1 and lookup.is_named(image, call.arguments[0]):
                store.forget(image.reference)
                _note("untag", image)
                return json.dumps({"untagged": [image.reference], "deleted": []})
            if len(names) > 1:
                raise ImageStoreError(f"{call.arguments[0]} has several names", details="\n".join(sorted(names)))
            deleted = self._delete(store, image)
            _note("delete", image)
            return json.dumps({"untagged": names, "deleted": deleted})

    def _delete(self, store: ImageStore, image: StoredImage) -> list[str]:
        needed = users(self._layout, image.digest)
        if needed:
            hint = "remove the workload from host.yaml; former generations go as new ones come"
            raise ImageInUseError(f"{image.reference or image.digest} is in use", details="\n".join(needed), hint=hint)
        if store.is_baked(image.digest):
            raise ImageInUseError(f"{image.reference or image.digest} came with the release and goes with it")
        retention.drop(self._layout.images, image.digest)
        retention.sweep(self._layout.images, ())
        return [image.digest]

    def prune(self, call: Call) -> str:
        """Remove images that no generation needs: those without a name, or with the argument ``all`` every one."""
        with self._lock(call):
            store = self._store()
            before = {image.digest: image for image in store.list()}
            keep = set(generation.pinned(self._layout))
            if call.arguments[0] != "all":
                keep |= set(store.names().values())
            used = retention.used(self._layout.images) if self._layout.images.is_dir() else 0
            store.collect(keep)
            gone = sorted({*before} - {image.digest for image in store.list()})
            for digest in gone:
                _note("delete", before[digest])
            return json.dumps({"deleted": gone, "bytes": max(0, used - retention.used(self._layout.images))})

    def load(self, call: Call) -> str:
        """Import the images of an archive, OCI's or Docker's, from a file or pipe. Returns them."""
        from hostctl.image.archive import load_stream  # noqa: PLC0415 - only for this method

        with self._lock(call), os.fdopen(os.dup(call.descriptors[0]), "rb") as file:
            loaded = list(load_stream(file, self._store()))
            for image in loaded:
                _note("load", image)
            return json.dumps([document(image) for image in loaded])

    def login(self, call: Call) -> str:
        """Check and store a user's password: arguments are the registry, the user, and a file with the password."""
        from hostctl.image.login import check  # noqa: PLC0415 - only for this method

        registry, user = registry_host(call.arguments[0]), call.arguments[1]
        with os.fdopen(os.dup(call.descriptors[0]), "rb") as file:
            data = file.read(SECRET_BYTES + 1)
        try:
            password = data.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CredentialError("the password is no text") from error
        secret = encode(user, password)
        declaration = images.declared(self._layout)
        reach = access(declaration, registry)
        check(registry, user, password, reach, Skopeo(runtime=self._layout.runtime / "registries"))
        images.credential_store(self._layout).put(registry, secret)
        return json.dumps({"registry": registry, "user": user})

    def logout(self, call: Call) -> str:
        """Forget a registry's password."""
        registry = registry_host(call.arguments[0])
        return json.dumps({"registry": registry, "removed": images.credential_store(self._layout).remove(registry)})

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        named, saved = ("reference",), ("images", "archive")
        return (
            Method(name="PullImage", handler=self.pull, strings=1, root_only=True, takes=named),
            Method(name="SearchImages", handler=self.search, strings=3, root_only=True, takes=SEARCHED),
            Method(name="PushImage", handler=self.push, strings=1, root_only=True, takes=named),
            Method(name="SaveImages", handler=self.save, strings=1, descriptors=1, root_only=True, takes=saved),
            Method(name="TagImage", handler=self.tag, strings=2, root_only=True, takes=("image", "reference")),
            Method(name="RemoveImage", handler=self.remove, strings=1, root_only=True, takes=("image",)),
            Method(name="PruneImages", handler=self.prune, strings=1, root_only=True, takes=("which",)),
            Method(name="LoadImages", handler=self.load, descriptors=1, root_only=True, takes=("archive",)),
            Method(name="Login", handler=self.login, strings=2, descriptors=1, root_only=True, takes=LOGGED_IN),
            Method(name="Logout", handler=self.logout, strings=1, root_only=True, takes=("registry",)),
        )
