"""Composes a release: the order of the stages, what each depends on, and where the results go.

Every stage is a function of hashed inputs to a folder in the builder's cache, so a change makes only what depends
on it, and nothing that was made is ever changed. The stages themselves live in their own modules.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

import zstandard

from hostctl.compose import bootstrap as bootstrap_stage
from hostctl.compose import cpio, customise, disk, images, initrd, kernel, manifest, sbom, seal, sources, tools, uki
from hostctl.compose.cache import Cache
from hostctl.compose.keys import KeySet
from hostctl.compose.lock import Lock, cache_folder, check_lock, format_lock, load_lock
from hostctl.compose.packages import Package, fetch_packages
from hostctl.config.load import load_release
from hostctl.config.release import ReleaseDeclaration
from hostctl.data import data_folder
from hostctl.durable import sha256_file, write_file
from hostctl.image import archive, layers, store, tarstream
from hostctl.progress import Progress
from hostctl.run import run

PAYLOAD_LEVEL = 12  # 90 s of -19 buy 6 % on these images
LOADER_CONF = b"timeout 0\nconsole-mode keep\neditor no\nauto-entries no\nsecure-boot-enroll if-safe\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build, from which lock and keys, and where to. None means the place beside the declaration."""

    release: Path
    output: Path
    keys: Path | None = None
    lock: Path | None = None


class Builder:
    """One build: its inputs, and the folders of the stages made so far."""

    def __init__(self, request: BuildRequest, progress: Progress) -> None:
        self.request = request
        self.progress = progress
        self.release: ReleaseDeclaration = load_release(request.release)
        self.keys = KeySet.load(request.keys or _default_keys(request.release))
        self.lock: Lock = load_lock(request.lock or request.release.with_name("release.lock"))
        check_lock(self.lock, self.release)
        self.cache = Cache(cache_folder())
        self.id = f"{self.release.name}_{self.release.release}"
        self._writing = threading.Lock()

    def stage(self, name: str, code: Sequence[ModuleType], inputs: Sequence[str], make: Callable[[Path], None]) -> Path:
        """Return a stage's folder, and report whether it was made or found."""
        made = False

        def build(folder: Path) -> None:
            nonlocal made
            made = True
            with self.progress.stage(name):
                make(folder)

        found = self.cache.stage(name, code, [*inputs, str(self.lock.source_date_epoch)], build)
        if not made:
            self.progress.done(name, 0.0, "unchanged")
        return found

    def packages(self, wanted: Sequence[Package]) -> Mapping[Package, Path]:
        """Return the files of packages, from the cache or the mirror."""
        return fetch_packages(wanted, self.cache.root)


def _default_keys(release: Path) -> Path:
    return Path(os.environ.get("HOSTCTL_KEYS") or release.with_name("keys"))


def _ids(packages: Sequence[Package]) -> list[str]:
    return [f"{package.name}={package.version}:{package.sha256}" for package in packages]


def build(request: BuildRequest, progress: Progress) -> manifest.Manifest:
    """Compose a release and return its manifest.

    Raises:
        HostctlError: the declaration, the lock, the keys or a stage is not in order; nothing is half-written to
            the output folder's manifest.
    """
    builder = Builder(request, progress)
    everything = (*builder.lock.host, *builder.lock.kernel, *builder.lock.tools)
    with progress.stage("packages"):
        files = builder.packages(everything)
    with ThreadPoolExecutor(2) as pool:
        installed = pool.submit(_bootstrap, builder, files)
        toolbox = _tools(builder, files)
        kernel_folder = _kernel(builder, files, toolbox)
        root_tar = installed.result()
    agent = _agent(builder, toolbox)
    baked = _images(builder, toolbox)
    tree = _customise(builder, root_tar, kernel_folder, agent, baked)
    sealed = _seal(builder, toolbox, tree)
    booted = _uki(builder, toolbox, kernel_folder, sealed, tree)
    image = _disk(builder, toolbox, sealed, booted)
    payload = _payload(builder, sealed)
    return _assemble(builder, sealed=sealed, booted=booted, image=image, payload=payload)


def _tools(builder: Builder, files: Mapping[Package, Path]) -> tools.ToolsRoot:
    wanted = builder.lock.tools
    folder = builder.stage(
        "tools",
        [tools],
        _ids(wanted),
        lambda output: tools.make_tools([(package, files[package]) for package in wanted], output),
    )
    return tools.ToolsRoot(folder)


def _bootstrap(builder: Builder, files: Mapping[Package, Path]) -> Path:
    wanted = builder.lock.host

    def make(output: Path) -> None:
        debs = {package: files[package] for package in wanted}
        bootstrap_stage.bootstrap(debs, output / "root.tar", epoch=builder.lock.source_date_epoch)

    return builder.stage("bootstrap", [bootstrap_stage], _ids(wanted), make)


def _kernel(builder: Builder, files: Mapping[Package, Path], toolbox: tools.ToolsRoot) -> Path:
    (package,) = builder.lock.kernel
    return builder.stage(
        "kernel",
        [kernel],
        [package.sha256, toolbox.path.name],
        lambda output: kernel.prepare_kernel(files[package], toolbox, output),
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
    code = [images, archive, layers, store, tarstream]
    return builder.stage("images", code, inputs, lambda output: images.bake(archives, toolbox, output))


def _customise(builder: Builder, installed: Path, kernel_folder: Path, agent: Path, baked: Path | None) -> Path:
    release = builder.release
    overlay = None if release.files is None else builder.request.release.parent / str(release.files)

    def make(output: Path) -> None:
        bootstrap = installed / "root.tar"
        added = sources.additions(
            release,
            modules=kernel.load_kernel(kernel_folder).modules,
            agent=agent,
            release_file=builder.request.release,
            debian_os_release=customise.read_member(bootstrap, "usr/lib/os-release").decode(),
            root_keys=builder.keys.tuf_root,
            baked=baked,
        )
        customise.customise(bootstrap, added, output / "root.tar")
        write_file(output / "os-release", added.files["usr/lib/os-release"])

    inputs = [installed.name, kernel_folder.name, agent.name, str(release.name), str(release.release)]
    inputs += [str(float(release.boot.deadline)), builder.keys.tuf_root.hex(), sources.tree_id(data_folder("units"))]
    inputs += [sources.tree_id(data_folder("rootfs")), "" if overlay is None else sources.tree_id(overlay)]
    inputs += ["" if baked is None else baked.name]
    return builder.stage("customise", [customise, sources], inputs, make)


def _seal(builder: Builder, toolbox: tools.ToolsRoot, tree: Path) -> Path:
    keys = builder.keys

    def make(output: Path) -> None:
        seal.make_erofs(toolbox, tree / "root.tar", output / "root.erofs", epoch=builder.lock.source_date_epoch)
        verity = seal.make_verity(toolbox, output / "root.erofs", output / "verity")
        signature = seal.sign_root_hash(
            verity.root_hash, keys.verity_key.read_bytes(), keys.verity_certificate.read_bytes()
        )
        certificate = keys.verity_certificate.read_bytes()
        write_file(output / "verity.p7s", signature)
        write_file(output / "verity-sig", seal.signature_partition(verity.root_hash, signature, certificate))
        write_file(output / "verity.json", seal.encode(verity))

    return builder.stage("seal", [seal], [tree.name, toolbox.path.name, keys.identity], make)


def _uki(builder: Builder, toolbox: tools.ToolsRoot, kernel_folder: Path, sealed: Path, tree: Path) -> Path:
    script = initrd.script_path(data_folder("rootfs")).read_bytes()
    prepared = kernel.load_kernel(kernel_folder)

    def make_initrd(output: Path) -> None:
        archive = initrd.initrd_archive(toolbox, prepared, script)
        write_file(output / "initrd.cpio.zst", initrd.compress(archive))

    first = builder.stage(
        "initrd", [initrd, cpio], [kernel_folder.name, toolbox.path.name, script.decode()], make_initrd
    )
    verity = seal.decode((sealed / "verity.json").read_bytes())
    words = [str(word) for word in builder.release.boot.cmdline]

    def make(output: Path) -> None:
        shutil.copyfile(kernel_folder / "vmlinuz", output / "vmlinuz")
        shutil.copyfile(first / "initrd.cpio.zst", output / "initrd.cpio.zst")
        write_file(output / "signature.cpio", initrd.signature_archive((sealed / "verity.p7s").read_bytes()))
        shutil.copyfile(tree / "os-release", output / "os-release")
        parts = uki.UkiParts(
            kernel=output / "vmlinuz",
            kernel_version=prepared.version,
            initrds=[output / "initrd.cpio.zst", output / "signature.cpio"],
            os_release=output / "os-release",
            cmdline=uki.kernel_cmdline(builder.id, verity.root_hash, words),
        )
        uki.make_uki(toolbox, parts, _signer(builder), output / "uki.efi")

    return builder.stage(
        "uki", [uki, initrd, cpio], [first.name, sealed.name, builder.keys.identity, builder.id, *words], make
    )


def _signer(builder: Builder) -> uki.EfiSigner:
    keys = builder.keys
    return uki.EfiSigner(
        key=keys.secure_boot_key, certificate=keys.secure_boot_certificate, epoch=builder.lock.source_date_epoch
    )


def _disk(builder: Builder, toolbox: tools.ToolsRoot, sealed: Path, booted: Path) -> Path:
    release, epoch = builder.release, builder.lock.source_date_epoch
    verity = seal.decode((sealed / "verity.json").read_bytes())

    def make(output: Path) -> None:
        loader, configuration, esp = output / "loader.efi", output / "loader.conf", output / "esp"
        _signer(builder).sign(toolbox, toolbox.path / uki.LOADER.lstrip("/"), loader)
        write_file(configuration, LOADER_CONF)
        files = {
            PurePosixPath("EFI/BOOT/BOOTX64.EFI"): loader,
            PurePosixPath("EFI/systemd/systemd-bootx64.efi"): loader,
            PurePosixPath("loader/loader.conf"): configuration,
            PurePosixPath(f"EFI/Linux/{builder.id}+{release.boot.tries}.efi"): booted / "uki.efi",
        }
        for path in builder.keys.enrolment:
            files[PurePosixPath("loader/keys/auto") / path.name] = path
        disk.make_esp(toolbox, files, esp, size=int(release.limits.esp), epoch=epoch)
        partitions = disk.layout(
            release=builder.id,
            verity=verity,
            esp=esp,
            root=sealed / "root.erofs",
            tree=sealed / "verity",
            signature=sealed / "verity-sig",
            esp_size=int(release.limits.esp),
            root_size=int(release.limits.root),
        )
        disk.make_disk(toolbox, partitions, output / "disk.raw", disk_id=seal.derived_uuid("disk", builder.id))
        esp.unlink()

    inputs = [sealed.name, booted.name, builder.id, builder.keys.identity, LOADER_CONF.decode()]
    inputs += [str(release.boot.tries), str(int(release.limits.esp)), str(int(release.limits.root))]
    return builder.stage("disk", [disk], inputs, make)


def _payload(builder: Builder, sealed: Path) -> Path:
    def make(output: Path) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(PAYLOAD_LEVEL, window_log=23, threads=2)
        compressor = zstandard.ZstdCompressor(compression_params=parameters)
        with (sealed / "root.erofs").open("rb") as source, (output / "root.erofs.zst").open("wb") as target:
            compressor.copy_stream(source, target, size=(sealed / "root.erofs").stat().st_size)

    return builder.stage("payload", [], [sealed.name, str(PAYLOAD_LEVEL)], make)


def _assemble(builder: Builder, *, sealed: Path, booted: Path, image: Path, payload: Path) -> manifest.Manifest:
    """Copy the results to the output folder and write the manifest, last."""
    release, output = builder.release, builder.request.output
    output.mkdir(parents=True, exist_ok=True)
    copies = {
        "root": (sealed / "root.erofs", f"{builder.id}.root.erofs"),
        "root.zst": (payload / "root.erofs.zst", f"{builder.id}.root.erofs.zst"),
        "verity": (sealed / "verity", f"{builder.id}.verity"),
        "verity-sig": (sealed / "verity-sig", f"{builder.id}.verity-sig"),
        "uki": (booted / "uki.efi", f"{builder.id}.efi"),
        "initrd": (booted / "initrd.cpio.zst", f"{builder.id}.initrd.cpio.zst"),
        "kernel": (booted / "vmlinuz", f"{builder.id}.vmlinuz"),
        "disk": (image / "disk.raw", f"{builder.id}.disk.raw"),
    }

    def make(folder: Path) -> None:
        texts = {
            "lock": format_lock(builder.lock).encode(),
            "sbom": sbom.make_sbom(str(release.name), str(release.release), builder.lock).encode(),
        }
        described = [_described(name, source, path) for name, (source, path) in copies.items()]
        for name, data in texts.items():
            path = f"{builder.id}.{'spdx.json' if name == 'sbom' else name}"
            write_file(folder / path, data)
            described.append(_described(name, folder / path, path))
        verity = seal.decode((sealed / "verity.json").read_bytes())
        made = manifest.Manifest(
            format=manifest.FORMAT,
            name=str(release.name),
            version=str(release.release),
            architecture=manifest.ARCHITECTURE,
            channel=str(release.channel),
            tries=release.boot.tries,
            source_date_epoch=builder.lock.source_date_epoch,
            root_hash=verity.root_hash,
            verity=verity,
            artifacts=tuple(sorted(described, key=lambda artifact: artifact.name)),
        )
        write_file(folder / manifest.FILE_NAME, manifest.to_json(made))

    inputs = [sealed.name, booted.name, image.name, payload.name, str(release.channel), format_lock(builder.lock)]
    described = builder.stage("manifest", [manifest, sbom], inputs, make)
    for source, path in copies.values():
        _copy(source, output / path)
    for source in sorted(described.iterdir(), key=lambda path: path.name == manifest.FILE_NAME):
        _copy(source, output / source.name)
    return manifest.load_manifest(output)


def _described(name: str, source: Path, path: str) -> manifest.Artifact:
    (artifact,) = manifest.describe(source.parent, {name: source.name})
    return manifest.Artifact(**{**asdict(artifact), "path": path})


def _copy(source: Path, target: Path) -> None:
    """Copy a result, sparse, unless the same one is already there: size and time are those of the cached file."""
    wanted = source.stat()
    if target.exists():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    temporary = target.with_name(f".{target.name}.tmp")
    run(["cp", "--sparse=always", "--reflink=auto", "--preserve=timestamps", source, temporary])
    temporary.replace(target)
