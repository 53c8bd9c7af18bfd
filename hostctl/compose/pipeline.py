"""Composes a release: the order of the stages, what each depends on, and where the results go.

Every stage is a function of hashed inputs to a folder in the builder's cache, so a change makes only what depends
on it, and nothing that was made is ever changed. The stages themselves live in their own modules.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostctl.compose import bootstrap as bootstrap_stage
from hostctl.compose import (
    bzimage,
    cpio,
    disk,
    frames,
    images,
    initrd,
    kernel,
    laid,
    manifest,
    payload,
    rewrap,
    sbom,
    seal,
    tools,
    uki,
)
from hostctl.compose.builder import Builder, BuildRequest
from hostctl.compose.lock import format_lock
from hostctl.compose.packages import Package
from hostctl.data import data_folder
from hostctl.durable import sha256_file, write_file
from hostctl.errors import HostctlError
from hostctl.payload import frame, index, pack
from hostctl.payload.pack import Files
from hostctl.progress import Progress
from hostctl.run import run

LOADER_CONF = b"timeout 0\nconsole-mode keep\neditor no\nauto-entries no\nsecure-boot-enroll if-safe\n"


class OutputError(HostctlError):
    """The output folder cannot be used."""

    id = "build-output"


def _ids(packages: Sequence[Package]) -> list[str]:
    return [f"{package.name}={package.version}:{package.sha256}" for package in packages]


def build(request: BuildRequest, progress: Progress) -> manifest.Manifest:
    """Compose a release and return its manifest.

    Raises:
        HostctlError: the declaration, the lock, the keys or a stage is not in order; nothing is half-written to
            the output folder's manifest.
    """
    builder = Builder(request, progress)
    _prepare(request.output)
    try:
        made = _build(builder)
        if builder.made:
            builder.cache.prune()
    finally:
        builder.cache.close()
    return made


def _prepare(output: Path) -> None:
    """Make the output folder, so that a place that cannot be written is refused before the work."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be made: {error.strerror}") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise OutputError(f"{output} cannot be written by this user", hint="name another folder with -o")


def _build(builder: Builder) -> manifest.Manifest:
    """Run the stages; what does not depend on each other runs side by side."""
    with builder.progress.stage("packages"):
        files = builder.packages((*builder.lock.host, *builder.lock.kernel, *builder.lock.tools))
    with ThreadPoolExecutor(1) as pool:
        installed = pool.submit(_bootstrap, builder, files)
        toolbox = _tools(builder, files)
        kernel_folder = _kernel(builder, files, toolbox)
        first = _initrd(builder, toolbox, kernel_folder)
        over = laid.make(builder, toolbox, kernel_folder)
        root_tar = installed.result()
    tree = laid.lay(builder, root_tar, over)
    sealed = _seal(builder, toolbox, tree)
    root_bytes = (sealed / "root.erofs").stat().st_size
    disk.check_size("the root", root_bytes, int(builder.release.limits.root), "limits.root")
    parts = Booted(kernel=kernel_folder, initrd=first, sealed=sealed, tree=tree)
    booted = _uki(builder, toolbox, parts)
    with ThreadPoolExecutor(1) as pool:
        packed = pool.submit(_payload, builder, toolbox, Files(root=sealed / "root.erofs", uki=booted / "uki.efi"))
        image = _disk(builder, toolbox, sealed, booted)
        packed_folder = packed.result()
    results = Results(parts=parts, booted=booted, image=image, packed=packed_folder)
    return _assemble(builder, results, over.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Booted:
    """Folders of the stages that a boot image is put together from."""

    kernel: Path
    initrd: Path
    sealed: Path
    tree: Path


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
    folder = builder.stage(
        "kernel",
        [kernel, rewrap, bzimage],
        [package.sha256, toolbox.path.name],
        lambda output: kernel.prepare_kernel(files[package], toolbox, output),
    )
    if note := kernel.load_kernel(folder).note:
        builder.progress.line(f"! {note}")
    return folder


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


def _initrd(builder: Builder, toolbox: tools.ToolsRoot, kernel_folder: Path) -> Path:
    script = initrd.script_path(data_folder("rootfs")).read_bytes()

    def make(output: Path) -> None:
        archive = initrd.initrd_archive(toolbox, kernel.load_kernel(kernel_folder), script)
        (output / "initrd.cpio").write_bytes(archive)

    inputs = [kernel_folder.name, toolbox.path.name, script.decode()]
    return builder.stage("initrd", [initrd, cpio], inputs, make)


def _uki(builder: Builder, toolbox: tools.ToolsRoot, parts: Booted) -> Path:
    verity = seal.decode((parts.sealed / "verity.json").read_bytes())
    words = [str(word) for word in builder.release.boot.cmdline]
    blocks = (parts.sealed / "root.erofs").stat().st_size // seal.BLOCK

    def make(output: Path) -> None:
        prepared = kernel.load_kernel(parts.kernel)
        signature = (parts.sealed / "verity.p7s").read_bytes()
        write_file(output / "signature.cpio", initrd.signature_archive(signature))
        contents = uki.UkiParts(
            kernel=prepared.image,
            kernel_version=prepared.version,
            initrds=[parts.initrd / "initrd.cpio", output / "signature.cpio"],
            os_release=parts.tree / "os-release",
            cmdline=uki.kernel_cmdline(builder.id, verity.root_hash, blocks, words),
        )
        uki.make_uki(toolbox, contents, _signer(builder), output / "uki.efi")

    inputs = [parts.kernel.name, parts.initrd.name, parts.sealed.name, builder.keys.identity, builder.id, *words]
    return builder.stage("uki", [uki, initrd, cpio], inputs, make)


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
        # Hashed here, beside the payload: the disk is by far the largest result.
        write_file(output / "disk.raw.sha256", sha256_file(output / "disk.raw").encode())

    inputs = [sealed.name, booted.name, builder.id, builder.keys.identity, LOADER_CONF.decode()]
    inputs += [str(release.boot.tries), str(int(release.limits.esp)), str(int(release.limits.root))]
    return builder.stage("disk", [disk], inputs, make)


def _payload(builder: Builder, toolbox: tools.ToolsRoot, files: Files) -> Path:
    inputs = [files.root.parent.name, files.uki.parent.name, toolbox.path.name]
    code = [payload, frames, pack, index, frame]
    kept = builder.cache.frames
    return builder.stage("payload", code, inputs, lambda output: payload.make_payload(toolbox, files, output, kept))


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Folders of the stages whose files go to the output."""

    parts: Booted
    booted: Path
    image: Path
    packed: Path


def _assemble(builder: Builder, results: Results, baked: Path | None) -> manifest.Manifest:
    """Copy the results to the output folder and write the manifest, last."""
    release, output = builder.release, builder.request.output
    parts, sealed = results.parts, results.parts.sealed
    prepared = kernel.load_kernel(parts.kernel)
    baked_images = images.describe(baked) if baked else {}
    copies = {
        "root": (sealed / "root.erofs", f"{builder.id}.root.erofs"),
        pack.INDEX_NAME: (results.packed / pack.INDEX_NAME, f"{builder.id}.{pack.INDEX_NAME}"),
        pack.SEGMENTS_NAME: (results.packed / pack.SEGMENTS_NAME, f"{builder.id}.{pack.SEGMENTS_NAME}"),
        "verity": (sealed / "verity", f"{builder.id}.verity"),
        "verity-sig": (sealed / "verity-sig", f"{builder.id}.verity-sig"),
        "uki": (results.booted / "uki.efi", f"{builder.id}.efi"),
        "initrd": (parts.initrd / "initrd.cpio", f"{builder.id}.initrd.cpio"),
        "kernel": (prepared.stock, f"{builder.id}.vmlinuz"),
        "disk": (results.image / "disk.raw", f"{builder.id}.disk.raw"),
    }

    def make(folder: Path) -> None:
        texts = {
            "lock": format_lock(builder.lock).encode(),
            "sbom": sbom.make_sbom(str(release.name), str(release.release), builder.lock, baked_images).encode(),
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
            notes=(prepared.note,) if prepared.note else (),
            artifacts=tuple(sorted(described, key=lambda artifact: artifact.name)),
        )
        write_file(folder / manifest.FILE_NAME, manifest.to_json(made))

    stages = (results.booted, results.image, results.packed)
    inputs = [*(folder.name for folder in stages), str(release.channel), format_lock(builder.lock)]
    described = builder.stage("manifest", [manifest, sbom], inputs, make)
    for source, path in copies.values():
        _copy(source, output / path)
    for source in sorted(described.iterdir(), key=lambda path: path.name == manifest.FILE_NAME):
        _copy(source, output / source.name)
    return manifest.load_manifest(output)


def _described(name: str, source: Path, path: str) -> manifest.Artifact:
    known = source.with_name(f"{source.name}.sha256")
    digest = known.read_text() if known.exists() else sha256_file(source)
    return manifest.Artifact(name=name, path=path, bytes=source.stat().st_size, sha256=digest)


def _copy(source: Path, target: Path) -> None:
    """Copy a result, sparse, unless the same one is already there: size and time are those of the cached file."""
    wanted = source.stat()
    if target.exists():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    run(["cp", "--sparse=always", "--reflink=auto", "--preserve=timestamps", source, temporary])
    temporary.replace(target)
