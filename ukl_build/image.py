# SPDX-License-Identifier: Apache-2.0
"""The description of a built image: what ``image.json`` holds.

It stands beside the bootable file, is written by the build's last stage and read by ukl-run.
Paths in it are relative to its own folder, so that the folder can be copied to another machine.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ukl_build import files
from ukl_build.cpio import clean
from ukl_build.model import Model, parse_json

IMAGE_FILE = "image.json"

PortNumber = Annotated[int, Field(ge=1, le=65535)]
NAME = r"^[a-z][a-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]


def mount_point(text: str) -> str:
    """Return a path in the guest that something can be mounted on.

    :raise ValueError: if it is none, or has a blank in it: it is a word for the init.
    """
    if clean(text).split() != [text]:
        raise ValueError(f"a mount point has no blanks: {text!r}")
    return text


GuestPath = Annotated[str, AfterValidator(clean)]
MountPoint = Annotated[str, AfterValidator(mount_point)]
UserId = Annotated[int, Field(ge=0, le=0xFFFFFFFE)]
Permissions = Annotated[int, Field(ge=0, le=0o7777)]
"""Octal in TOML as well: ``0o750``."""


class Protocol(StrEnum):
    """Transport protocol of a port."""

    TCP = "tcp"
    UDP = "udp"


class Init(StrEnum):
    """What the kernel starts as process 1."""

    RING3 = "ring3"
    """Our small ordinary init, which sets the guest up and starts the application."""
    DIRECT = "direct"
    """The application itself; only kernel parameters set the guest up."""


class Variant(StrEnum):
    """In which way an application is run; all but the first are there to be compared with it."""

    UKL = "ukl"
    """In ring 0, linked into the kernel."""
    TWIN = "twin"
    """The same objects as an ordinary process, on the same kernel without UNIKERNEL_LINUX."""
    STOCK = "stock"
    """Debian's package of the application, on Debian's kernel."""
    BASE = "base"
    """As :attr:`UKL`, and each system call is entered and left as one of ring 3."""
    RET = "ret"
    """As :attr:`BASE`, and system calls return by RET where they can."""
    BYPASS = "bypass"
    """As :attr:`RET`, and the C library calls the functions of system calls."""
    SHORTCUT = "shortcut"
    """As :attr:`BYPASS`, and those on sockets, pipes and eventfds go past VFS."""

    @property
    def ring0(self) -> bool:
        """Whether the application is linked into the kernel."""
        return self not in (Variant.TWIN, Variant.STOCK)


class Port(Model):
    """A port that the application listens on."""

    guest: PortNumber
    proto: Protocol = Protocol.TCP


class Smoke(Model):
    """A question over TCP, and the answer that shows that the application works."""

    port: PortNumber
    """Guest port; one of the image's TCP ports."""
    send: str
    """Sent as UTF-8 after connecting."""
    expect: str = Field(min_length=1)
    """What the answer must begin with, UTF-8."""
    deadline_s: int = Field(default=60, gt=0)
    """Seconds from the start of the virtual machine to the whole answer, under TCG."""


class SmokeRun(Model):
    """A run of an application that ends by itself, and what shows that it worked."""

    args: tuple[str, ...] = ()
    """Arguments in place of the recipe's, if there are any."""
    expect: tuple[str, ...] = ()
    """Lines of the console in their order; others may be between them.  In a line ``*``, ``?`` and
    ``[...]`` stand for what they do in a shell."""
    status: int = Field(default=0, ge=0, le=255)
    """Exit status; 128 + N if signal N ends it."""
    deadline_s: int = Field(default=60, gt=0)
    """Seconds from the start of the virtual machine to its end, under TCG."""


class App(Model):
    """The application, as its process sees itself."""

    path: str = Field(default="/UKL", pattern=r"^/")
    """Of its file: CONFIG_UKL_NAME of a kernel that the application is linked into."""
    argv: tuple[str, ...] = Field(min_length=1)
    """Argument vector, ``argv[0]`` included."""
    env: dict[str, str] = Field(default_factory=dict)


class Feature(StrEnum):
    """What a kernel must have for some machines; its value is a fragment's name."""

    EXT4 = "ext4"
    VIRTIO_BLK = "virtio-blk"
    NINE_P = "9p"
    WATCHDOG = "watchdog"
    EFI = "efi"
    VIRTIO_MMIO = "virtio-mmio"


FEATURE_OPTIONS = {
    Feature.EXT4: ("EXT4_FS",),
    Feature.VIRTIO_BLK: ("VIRTIO_BLK",),
    Feature.NINE_P: ("9P_FS", "NET_9P_VIRTIO"),
    Feature.WATCHDOG: ("WATCHDOG", "I6300ESB_WDT"),
    Feature.EFI: ("EFI_STUB",),
    Feature.VIRTIO_MMIO: ("VIRTIO_MMIO", "VIRTIO_MMIO_CMDLINE_DEVICES", "PVH"),
}
"""Options that make a feature, all of them, without CONFIG_."""


class Disk(Model):
    """A disk that outlives the guest, formatted by ukl-run and mounted before the application.

    The disks are vda, vdb, ... in their order.
    """

    name: Name
    """Its file's, in the state folder of the image."""
    size_mib: int = Field(ge=16, le=16 << 20)
    """Size in MiB when it is made: a sparse file, and a journal fits from 16 MiB on."""
    mount: MountPoint
    """Where it is mounted in the guest."""
    fs: Literal["ext4"] = "ext4"
    uid: UserId = 0
    gid: UserId = 0
    mode: Permissions = 0o755
    """Owner and permissions of its root folder when it is made."""

    @property
    def needs(self) -> tuple[Feature, ...]:
        """What the kernel must have."""
        return Feature.EXT4, Feature.VIRTIO_BLK


class Share(Model):
    """A folder of the host that the guest sees, by 9p."""

    name: Name
    """Its folder's, in the state folder of the image."""
    mount: MountPoint
    """Where it is mounted in the guest."""
    read_only: bool = False

    @property
    def needs(self) -> tuple[Feature, ...]:
        """What the kernel must have."""
        return (Feature.NINE_P,)


MAX_ATTACHED = 16
"""Disks and shared folders of one machine: each is a device on a bus with 32 places."""


class Image(Model):
    """One bootable application."""

    # `schema` itself is a (deprecated) method of pydantic's BaseModel.
    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str
    variant: Variant = Variant.UKL
    kernel: str
    """The bzImage, relative to the folder of image.json."""
    initrd: str | None = None
    """The guest's userspace, relative as well, if it is not in the bzImage."""
    cmdline: tuple[str, ...]
    """Kernel parameters, to be joined by spaces; what follows ``--`` goes to process 1."""
    memory_mib: int = Field(ge=32)
    """Memory of the virtual machine in MiB."""
    cpus: int = Field(ge=1, le=64)
    ports: tuple[Port, ...] = ()
    smoke: Smoke | None = None
    smoke_runs: tuple[SmokeRun, ...] = ()
    """In place of :attr:`smoke`: one after the other, with the same disks and folders."""
    init: Init = Init.RING3
    app: App
    disks: tuple[Disk, ...] = ()
    shares: tuple[Share, ...] = ()
    features: tuple[Feature, ...] = ()
    """What the kernel has for devices that not each machine has."""
    licences: dict[str, str] = Field(default_factory=dict)
    """SPDX expression of each part of the one work that the kernel is, by the part's name."""
    redistributable: bool = False
    """Whether these licences let the image be handed on.  Not looked at, and so false, for what is
    only there to be compared with."""

    @property
    def label(self) -> str:
        """What it is called where several stand side by side; no other application's name."""
        return self.name if self.variant is Variant.UKL else f"{self.name}.{self.variant}"

    @property
    def command(self) -> str:
        """The command that builds it."""
        target = "" if self.variant is Variant.UKL else f" {self.variant}"
        if target and self.variant.ring0:
            target = " ladder"
        return f"scons app={self.name}{target}"


def load(path: Path) -> Image:
    """Read an image.json.

    :raise UklError: ``image-invalid``, naming each key at fault.
    :raise OSError: if it cannot be read.
    """
    return parse_json(Image, path.read_bytes(), where=path, code="image-invalid")


def store(image: Image, path: Path) -> None:
    """Write an image.json atomically."""
    files.write(path, image.model_dump_json(indent=2, by_alias=True) + "\n")
