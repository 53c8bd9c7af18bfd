"""The value types of declarations, under one name to import from.

Each has ``parse(text)``, which raises ValueError, and ``str()``, which gives the canonical text that parses to an
equal value. Values of text are ``str``; sizes and permissions are ``int``; times and cores are ``float``.
``PATTERN`` is the grammar, ``EXPECTED`` what an error message asks for, ``EXAMPLE`` a valid text.
"""

from hostctl.config.addresses import (
    BindAddress,
    HttpUrl,
    InterfaceAddress,
    InterfaceMatch,
    IpAddress,
    TcpAddress,
)
from hostctl.config.limits import (
    ContainerPath,
    CpuSet,
    DevicePath,
    MountTarget,
    NamespacedSysctl,
    Signal,
    TmpfsMount,
    Ulimit,
    UlimitName,
)
from hostctl.config.names import (
    CAPABILITIES,
    AppArmorProfile,
    Capability,
    EtcPath,
    HostName,
    Name,
    PackageName,
    RelativePath,
    SysctlName,
    TimeZone,
    UserName,
)
from hostctl.config.quantities import ByteSize, Cpus, Duration, FileMode
from hostctl.config.references import (
    ConfigMount,
    ImageReference,
    PortMapping,
    RegistryHost,
    RegistryMirror,
    SshKey,
    VolumeMount,
    WorkloadUser,
)
from hostctl.config.running import (
    DeviceMount,
    DroppedCapability,
    ListenAddress,
    RestartPolicy,
)
from hostctl.config.schedule import Schedule
from hostctl.config.text import Text
from hostctl.config.versions import ReleaseVersion
from hostctl.config.windows import LockGroup, Window

__all__ = [
    "CAPABILITIES",
    "Text",
    "AppArmorProfile",
    "ByteSize",
    "Capability",
    "Cpus",
    "Duration",
    "EtcPath",
    "FileMode",
    "HostName",
    "HttpUrl",
    "ImageReference",
    "InterfaceAddress",
    "InterfaceMatch",
    "IpAddress",
    "BindAddress",
    "LockGroup",
    "Name",
    "PackageName",
    "PortMapping",
    "RegistryHost",
    "RegistryMirror",
    "RelativePath",
    "ReleaseVersion",
    "SshKey",
    "SysctlName",
    "TcpAddress",
    "TimeZone",
    "UserName",
    "VolumeMount",
    "Window",
    "ConfigMount",
    "ContainerPath",
    "CpuSet",
    "DeviceMount",
    "DevicePath",
    "DroppedCapability",
    "ListenAddress",
    "RestartPolicy",
    "Schedule",
    "MountTarget",
    "NamespacedSysctl",
    "Signal",
    "TmpfsMount",
    "Ulimit",
    "UlimitName",
    "WorkloadUser",
]
