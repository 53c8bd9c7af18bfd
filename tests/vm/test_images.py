"""Images on a host: pulled, named, loaded, kept while needed; passwords and signatures of registries."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hostctl_lab.host import Host
from hostctl_lab.registry import PASSWORD, USER, Registry, run_registry
from hostctl_lab.releases import Lab
from hostctl_qemu.ssh import make_key

BOX = "/usr/bin/busybox"
BAKED = "localhost/box:1"
KEYS = "/run/keys-for-test"
MAKE_ARCHIVE = """\
import hashlib, io, json, tarfile
def pack(files, mode, to):
    with tarfile.open(fileobj=to, mode=mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
layer = io.BytesIO()
pack({"hello": b"hello"}, "w", layer)
diff = hashlib.sha256(layer.getvalue()).hexdigest()
rootfs = {"type": "layers", "diff_ids": ["sha256:" + diff]}
config = json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}).encode()
name = hashlib.sha256(config).hexdigest() + ".json"
names = [{"Config": name, "RepoTags": ["hello:1"], "Layers": ["blobs/sha256/" + diff]}]
files = {"manifest.json": json.dumps(names).encode(), name: config, "blobs/sha256/" + diff: layer.getvalue()}
pack(files, "w:gz", open("/run/hello.tar.gz", "wb"))
"""
"""Writes what `docker save hello:1 | gzip` does."""


def images(host: Host) -> Mapping[str, Mapping[str, str]]:
    """Return the images by reference."""
    rows = json.loads(host.text("hostctl", "images", "--json"))["images"]
    return {row["reference"]: row for row in rows}


@pytest.fixture(scope="module")
def private(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Return a registry that wants a password, with the tests' image as ``box:1`` and ``box:2``."""
    with run_registry(tmp_path_factory.mktemp("private"), private=True) as registry:
        for tag in ("1", "2"):
            registry.push(f"oci-archive:{lab.image()}", f"box:{tag}", f"--dest-creds={USER}:{PASSWORD}")
        yield registry


@pytest.fixture(scope="module")
def wanted(declaration: str, ssh_folder: Path, registry: Registry, private: Registry) -> str:
    """Return a declaration without workloads that says how the registries are reached, with a user who is nobody."""
    with_eve = declaration.replace("users:\n", f"users:\n  eve: {{ssh_keys: ['{make_key(ssh_folder)}']}}\n")
    known = "\n".join(f'  "{each.guest_address}": {{insecure: true}}' for each in (registry, private))
    return f"{with_eve}registries:\n{known}\n"


def test_an_image_is_pulled(host: Host, wanted: str, registry: Registry) -> None:
    host.apply(wanted)
    name = f"{registry.guest_address}/box:1"
    said = host.text("hostctl", "pull", name)
    assert said.splitlines()[-1] == name
    assert images(host)[name]["id"] == images(host)[BAKED]["id"]
    layers = host.shell("ls /var/lib/hostctl/images/layers").split()
    assert layers == []  # the very layer came with the release


def test_names_are_given_and_taken(host: Host, registry: Registry) -> None:
    name = f"{registry.guest_address}/box:1"
    host.text("hostctl", "tag", name, "site:stable")
    short = images(host)[name]["id"].removeprefix("sha256:")[:12]
    assert short in host.text("hostctl", "images", "site:stable")
    assert "docker.io/library/site" in host.text("hostctl", "images")
    inspected = json.loads(host.text("hostctl", "image", "inspect", short))[0]
    assert set(inspected["references"]) == {name, BAKED, "docker.io/library/site:stable"}
    assert inspected["baked"] is True
    assert host.text("hostctl", "image", "history", BAKED).startswith("CREATED")
    assert host.text("hostctl", "rmi", "site:stable") == "Untagged: docker.io/library/site:stable"
    assert "came with the release" in host.fails("hostctl", "rmi", BAKED)
    assert "there is no image" in host.fails("hostctl", "rmi", "site:stable")


def test_a_plain_user_changes_nothing(host: Host, registry: Registry) -> None:
    for words in (("pull", f"{registry.guest_address}/box:1"), ("rmi", BAKED), ("image", "prune")):
        assert host.run("hostctl", *words, user="eve", check=False).status == 1
    assert "localhost/box" in host.run("hostctl", "images", user="eve").text


def test_nothing_is_asked_of_what_answers_a_machine_alone(host: Host) -> None:
    host.shell("""\
ip address add 169.254.7.7/32 dev lo
systemd-run --quiet --unit=alone python3 -m http.server --bind 169.254.7.7 80
""")
    ask = ("python3", "-c", "import urllib.request as r; r.urlopen('http://169.254.7.7/', timeout=5)")
    host.wait_for("it answers others", lambda: host.run(*ask, check=False).status == 0, 60)
    assert "i/o timeout" in host.fails("hostctl", "pull", "169.254.7.7:80/box:1")
    host.shell("systemctl stop alone; ip address delete 169.254.7.7/32 dev lo")


def test_an_archive_is_loaded_and_goes_out_again(host: Host, registry: Registry) -> None:
    host.text("python3", "-c", MAKE_ARCHIVE)
    assert host.text("sh", "-c", "hostctl load </run/hello.tar.gz") == "Loaded image: docker.io/library/hello:1"
    (layer,) = host.shell("ls /var/lib/hostctl/images/layers/*.erofs").split()
    assert host.shell("cat /var/lib/hostctl/images/layers/*.check").startswith("verity sha256:")
    assert "Operation not permitted" in host.fails("sh", "-c", f"echo other >>{layer}")
    assert "docker.io/library/hello:1: well" in host.text("hostctl", "image", "verify")
    host.text("hostctl", "save", "-o", "/run/saved.tar", "hello:1")
    saved = host.text("skopeo", "inspect", "--raw", "docker-archive:/run/saved.tar:hello:1")
    known = images(host)["docker.io/library/hello:1"]["id"]
    assert json.loads(saved)["config"]["digest"] == known
    target = f"{registry.guest_address}/hello:2"
    host.text("hostctl", "tag", "hello:1", target)
    assert host.text("hostctl", "push", target).startswith("2: digest: sha256:")
    host.text("hostctl", "rmi", target)
    host.text("hostctl", "rmi", "hello:1")
    assert host.shell("ls /var/lib/hostctl/images/layers") == ""
    host.text("hostctl", "pull", target)
    assert images(host)[target]["id"] == known
    assert host.text("sh", "-c", "hostctl load </run/saved.tar") == "Loaded image: docker.io/library/hello:1"
    host.text("hostctl", "rmi", target)
    host.shell(f"rm {layer} && echo something else >{layer}")
    assert "it is damaged" in host.fails("hostctl", "image", "verify", "hello:1")
    assert "Deleted: sha256:" in host.text("hostctl", "rmi", "hello:1")
    assert host.shell("ls /var/lib/hostctl/images/layers") == ""


def test_a_password_is_checked_stored_encrypted_and_forgotten(host: Host, private: Registry) -> None:
    name = f"{private.guest_address}/box:1"
    refused = host.run("hostctl", "pull", name, check=False)
    assert refused.status == 69
    assert b"hostctl login" in refused.stderr
    login = ("hostctl", "login", "-u", USER, "--password-stdin", private.guest_address)
    assert "does not let this host" in host.fails(*login, stdin="wrong")
    assert host.text(*login, stdin=f"{PASSWORD}\n") == "Login Succeeded"
    stored = host.shell("cat /var/lib/hostctl/credentials/*.cred")
    assert PASSWORD not in stored
    host.text("hostctl", "pull", name)
    assert host.shell("ls /run/hostctl/registries") == ""
    host.text("hostctl", "logout", private.guest_address)
    host.fails("hostctl", "pull", f"{private.guest_address}/box:2")


def test_only_signed_images_run_where_a_key_is_declared(host: Host, wanted: str, registry: Registry) -> None:
    where = registry.guest_address
    host.shell(f"""\
mkdir -p {KEYS}/d && cd {KEYS} && printf 'x\\n' >passphrase
skopeo generate-sigstore-key --output-prefix key --passphrase-file passphrase
skopeo generate-sigstore-key --output-prefix other --passphrase-file passphrase
printf 'default-docker:\\n  use-sigstore-attachments: true\\n' >d/x.yaml
for key in key other; do
  skopeo --insecure-policy --registries.d d copy -q --preserve-digests --src-tls-verify=false --dest-tls-verify=false \\
    --sign-by-sigstore-private-key $key.private --sign-passphrase-file passphrase \\
    docker://{where}/box:1 docker://{where}/by-$key:1
done
""")
    key = json.dumps(host.text("cat", f"{KEYS}/key.pub") + "\n")
    signed = wanted.replace(
        f'"{where}": {{insecure: true}}',
        f'"{where}": {{insecure: true, signatures: {{require: cosign, key: {key}}}}}',
    )

    def workload(name: str) -> str:
        return f"{signed}workloads:\n  web: {{image: '{where}/{name}:1', command: [{BOX}, sleep, '100000']}}\n"

    # Their digest is that of the image in the release, which is trusted; so a store without that one is asked.
    host.shell("mkdir -p /run/none && mount --bind /run/none /usr/share/hostctl/images")
    try:
        for name in ("box", "by-other"):
            assert "no valid signature" in host.fails("hostctl", "apply", "-", stdin=workload(name))
        said = host.apply(workload("by-key"))
    finally:
        host.shell("umount /usr/share/hostctl/images")
    assert "is in force" in said
    assert host.text("systemctl", "is-active", "workload-web.service") == "active"
    assert host.shell("ls /var/lib/hostctl/images/layers/*.erofs")


def test_what_a_generation_needs_stays(host: Host, registry: Registry) -> None:
    name = f"{registry.guest_address}/by-key:1"
    before = host.shell("ls /var/lib/hostctl/images/layers")
    host.text("hostctl", "image", "prune", "--all")
    assert name in images(host)
    assert host.shell("ls /var/lib/hostctl/images/layers") == before
    assert host.text("systemctl", "is-active", "workload-web.service") == "active"
