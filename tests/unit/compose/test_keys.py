"""A complete key set, readable by its owner only, never overwritten; the enrolment files as firmware reads them."""

import json
import struct
from pathlib import Path

import pytest
from cryptography import x509
from tuf.api.metadata import Root

from hostctl.cli.main import main
from hostctl.compose.keys import KeysError, KeySet, make_keys
from hostctl.compose.secure_boot import CERT_TYPE_PKCS7, CERT_X509
from hostctl.repository.keyring import Keyring
from hostctl.repository.metadata import load


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "keys"
    make_keys(folder)
    return folder


def test_a_new_set_is_complete_for_building_and_publishing(keys: Path) -> None:
    assert KeySet.load(keys).tuf_root == Keyring.load(keys).root
    assert set(Keyring.load(keys).channels) == {"stable"}


def test_private_keys_are_their_owner_s_alone(keys: Path) -> None:
    secrets = [*keys.glob("*.key"), *keys.glob("tuf/*.pem")]
    assert len(secrets) == 9
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    assert keys.stat().st_mode & 0o777 == 0o700


def test_keys_are_never_overwritten(keys: Path) -> None:
    before = (keys / "verity.key").read_bytes()
    with pytest.raises(KeysError, match="never overwritten"):
        make_keys(keys)
    assert (keys / "verity.key").read_bytes() == before


def test_a_missing_set_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(KeysError) as caught:
        KeySet.load(tmp_path)
    assert f"hostctl keys init {tmp_path}" in caught.value.hint


def test_an_incomplete_set_names_what_is_missing(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "verity.crt").write_bytes((keys / "verity.crt").read_bytes())
    with pytest.raises(KeysError) as caught:
        KeySet.load(tmp_path)
    assert "verity.key" in caught.value.details
    assert "verity.crt" not in caught.value.details


@pytest.mark.parametrize("name", ["PK", "KEK", "db"])
def test_an_enrolment_file_is_a_signed_list_with_our_certificate(keys: Path, name: str) -> None:
    data = (keys / f"secure-boot/{name}.auth").read_bytes()
    length, revision, kind = struct.unpack_from("<IHH", data, 16)
    assert (revision, kind) == (0x0200, 0x0EF1)
    assert data[24:40] == CERT_TYPE_PKCS7.bytes_le
    assert data[40] == 0x30  # SignedData, not a ContentInfo: the next element is its version
    assert CERT_X509.bytes_le == data[16 + length : 32 + length]
    certificate = x509.load_pem_x509_certificate((keys / "secure-boot.crt").read_bytes())
    assert x509.load_der_x509_certificate(data[16 + length + 28 + 16 :]) == certificate


def test_another_channel_gets_a_key_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    options = ["--channel", "stable", "--channel", "beta", "--root-keys", "5", "--threshold", "3"]
    assert main(["keys", "init", str(keys), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["channels"] == ["stable", "beta"]
    assert main(["keys", "channel", str(keys), "canary"]) == 0
    assert (keys / "tuf/channel-canary.pem").stat().st_mode & 0o777 == 0o600
    assert set(Keyring.load(keys).channels) == {"stable", "beta", "canary"}
    root = load(Keyring.load(keys).root, Root).signed.roles["root"]
    assert (len(root.keyids), root.threshold) == (5, 3)
    capsys.readouterr()
    assert main(["keys", "channel", str(keys), "canary"]) == 1
    assert main(["keys", "channel", str(keys), "targets"]) == 2
    assert main(["keys", "init", str(tmp_path / "other"), "--threshold", "4"]) == 2
    assert not (tmp_path / "other").exists()


def test_the_command_makes_keys_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "init", str(tmp_path / "keys")]) == 0
    assert main(["keys", "init", str(tmp_path / "keys")]) == 1
    assert "never overwritten" in capsys.readouterr().err
