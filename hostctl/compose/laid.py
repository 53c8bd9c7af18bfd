"""The stages that make what is laid over the packages of a release, and the one that lays it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from hostctl.compose import apparmor, customise, host_units, images, kernel, sources, tools
from hostctl.compose.builder import Builder
from hostctl.data import data_folder
from hostctl.durable import sha256_file, write_file
from hostctl.image import archive, blobs, layers, room, store, tarstream
from hostctl.run import run


@dataclass(frozen=True, kw_only=True, slots=True)
class Laid:
    """Folders of the stages whose results are laid over the packages; none of what the release does not have."""

    kernel: Path
    agent: Path
    images: Path | None
    profiles: Path | None


def make(builder: Builder, toolbox: tools.ToolsRoot, kernel_folder: Path) -> Laid:
    """Make what is laid over the packages."""
    return Laid(
        kernel=kernel_folder,
        agent=_agent(builder, toolbox),
        images=_images(builder, toolbox),
        profiles=_profiles(builder, toolbox),
    )


def _agent(builder: Builder, toolbox: tools.ToolsRoot) -> Path:
    """Compile the package for the host's Python: its files can never be compiled where they lie, on a verified root."""
    package = Path(sources.__file__).parent.parent

    def make(output: Path) -> None:
        target = output / sources.PACKAGE
        for path in sources.agent_files(package):
            copy = target / path.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        shutil.copytree(data_folder("units"), target / "data/units")
        words = ["python3", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        run(toolbox.argv([*words, "-s", str(output), "-p", "/", str(target)], binds=[output]))

    inputs = [sources.tree_id(package, skip=sources.BUILDER_ONLY), toolbox.path.name]
    inputs += [sources.tree_id(data_folder("units"))]
    return builder.stage("agent", [sources], inputs, make)


def _images(builder: Builder, toolbox: tools.ToolsRoot) -> Path | None:
    """Return the store of the release's images, or none if it has none."""
    archives = [builder.request.release.parent / str(path) for path in builder.release.images]
    if not archives:
        return None
    missing = [str(path) for path in archives if not path.is_file()]
    if missing:
        hint = "`hostctl image build` makes it"
        raise images.BakedImageError("an image of the release is missing", details="\n".join(missing), hint=hint)
    inputs = [*map(sha256_file, archives), toolbox.path.name]
    code = [images, archive, blobs, layers, room, store, tarstream]
    return builder.stage("images", code, inputs, lambda output: images.bake(archives, toolbox, output))


def _profiles(builder: Builder, toolbox: tools.ToolsRoot) -> Path | None:
    """Return the release's compiled AppArmor profiles, or none if it has none."""
    if not builder.release.apparmor:
        return None
    texts = apparmor.read_profiles(builder.request.release.parent, [str(path) for path in builder.release.apparmor])
    inputs = [toolbox.path.name, *(f"{name}:{hashlib.sha256(text).hexdigest()}" for name, text in texts)]

    def make(output: Path) -> None:
        apparmor.compile_profiles(texts, toolbox, output)

    return builder.stage("apparmor", [apparmor], inputs, make)


def lay(builder: Builder, installed: Path, laid: Laid) -> Path:
    """Return the folder with the root as a tar: the installed packages with everything laid over them."""
    release = builder.release
    overlay = None if release.files is None else builder.request.release.parent / str(release.files)

    def make(output: Path) -> None:
        bootstrap = installed / "root.tar"
        added = sources.additions(
            release,
            modules=kernel.load_kernel(laid.kernel).modules,
            agent=laid.agent,
            release_file=builder.request.release,
            debian_os_release=customise.read_member(bootstrap, "usr/lib/os-release").decode(),
            root_keys=builder.keys.tuf_root,
            baked=laid.images,
            profiles=laid.profiles,
        )
        customise.customise(bootstrap, added, output / "root.tar")
        write_file(output / "os-release", added.files["usr/lib/os-release"])

    inputs = [installed.name, laid.kernel.name, laid.agent.name, str(release.name), str(release.release)]
    inputs += [str(float(release.boot.deadline)), builder.keys.tuf_root.hex(), sources.tree_id(data_folder("units"))]
    inputs += [sources.tree_id(data_folder("rootfs") / "overlay"), "" if overlay is None else sources.tree_id(overlay)]
    inputs += ["" if folder is None else folder.name for folder in (laid.images, laid.profiles)]
    return builder.stage("customise", [customise, sources, host_units], inputs, make)
