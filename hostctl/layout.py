"""Where things lie on a host: one place for every path, so that a test can move the root.

The constants are the contract between the initrd, the units and the agent; ``docs/architecture.md`` explains them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HostLayout:
    """Paths on a host whose file system starts at ``root``."""

    root: Path = Path("/")

    @property
    def state(self) -> Path:
        """Everything that hostctl remembers; the only state besides volumes and journal."""
        return self.root / "var/lib/hostctl"

    @property
    def generations(self) -> Path:
        """One folder a generation, named by its number."""
        return self.state / "generations"

    @property
    def current(self) -> Path:
        """Symbolic link ``generations/N`` of the generation in force."""
        return self.state / "current"

    @property
    def images(self) -> Path:
        """The image store that pulls write to."""
        return self.state / "images"

    @property
    def baked_images(self) -> Path:
        """The image store that came with the release, inside the verified root."""
        return self.root / "usr/share/hostctl/images"

    @property
    def apparmor(self) -> Path:
        """One compiled AppArmor profile a file, by its name, loaded at boot."""
        return self.root / "usr/share/hostctl/apparmor"

    @property
    def volumes(self) -> Path:
        """One folder a named volume."""
        return self.state / "volumes"

    @property
    def secrets(self) -> Path:
        """One encrypted file a secret."""
        return self.state / "secrets"

    @property
    def credentials(self) -> Path:
        """One encrypted file a registry that wants a password."""
        return self.state / "credentials"

    @property
    def refused_images(self) -> Path:
        """Which renewed images were taken back, so that they are not tried again."""
        return self.state / "refused-images.json"

    @property
    def workloads(self) -> Path:
        """Per workload: mount points and the writable layer."""
        return self.state / "workloads"

    @property
    def runtime(self) -> Path:
        """What does not outlive a boot."""
        return self.root / "run/hostctl"

    @property
    def network_due(self) -> Path:
        """A mark that the networks of workloads are to be brought to what is to hold."""
        return self.runtime / "network.due"

    @property
    def changing_network(self) -> Path:
        """The network plan that holds while workloads have two instances; a boot begins without it."""
        return self.runtime / "network.json"

    @property
    def turns(self) -> Path:
        """What the replicas that wait for their turn to change run from; there only while some do."""
        return self.runtime / "turns"

    @property
    def kernel_settings(self) -> Path:
        """What kernel settings were before this boot set them."""
        return self.runtime / "sysctl.json"

    @property
    def spare_declaration(self) -> Path:
        """Copy of the declaration in force, for a boot whose state is lost."""
        return self.esp / "hostctl/host.yaml"

    @property
    def state_lost(self) -> Path:
        """What the initrd says of a state that it could not mount as it should."""
        return self.runtime / "state-lost"

    @property
    def withheld(self) -> Path:
        """Why workloads wait for their images; there from when a boot finds that they do to its end."""
        return self.runtime / "withheld"

    @property
    def given_declaration(self) -> Path:
        """The declaration that this boot was given, for a machine without a generation; only root can look for it."""
        return self.root / "run/credentials/@system/hostctl.host"

    @property
    def esp(self) -> Path:
        """Mount point of the EFI system partition."""
        return self.root / "efi"
