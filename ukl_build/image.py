# SPDX-License-Identifier: Apache-2.0
"""The description of a built image: what ``image.json`` holds.

It stands beside the bootable file, is written by the build's last stage and read by ukl-run.
Paths in it are relative to its own folder, so that the folder can be copied to another machine.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ukl_build import files
from ukl_build.model import Model, parse_json

PortNumber = Annotated[int, Field(ge=1, le=65535)]


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


class App(Model):
    """The application, as its process sees itself."""

    path: str = Field(default="/UKL", pattern=r"^/")
    """CONFIG_UKL_NAME of the kernel."""
    argv: tuple[str, ...] = Field(min_length=1)
    """Argument vector, ``argv[0]`` included."""
    env: dict[str, str] = Field(default_factory=dict)


class Disk(Model):
    """A raw disk image, attached as virtio-blk in the order given (vda, vdb, ...)."""

    path: str
    """Relative to the folder of image.json."""
    read_only: bool = False


class Image(Model):
    """One bootable application."""

    # `schema` itself is a (deprecated) method of pydantic's BaseModel.
    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str
    kernel: str
    """The bzImage, relative to the folder of image.json."""
    cmdline: tuple[str, ...]
    """Kernel parameters, to be joined by spaces; what follows ``--`` goes to process 1."""
    memory_mib: int = Field(ge=32)
    """Memory of the virtual machine in MiB."""
    cpus: int = Field(ge=1, le=64)
    ports: tuple[Port, ...] = ()
    smoke: Smoke | None = None
    init: Init = Init.RING3
    app: App
    disks: tuple[Disk, ...] = ()
    licences: dict[str, str] = Field(default_factory=dict)
    """SPDX expression of each part of the one work that the kernel is, by the part's name."""
    redistributable: bool = False
    """Whether these licences let the image be handed on."""


def load(path: Path) -> Image:
    """Read an image.json.

    :raise UklError: ``image-invalid``, naming each key at fault.
    :raise OSError: if it cannot be read.
    """
    return parse_json(Image, path.read_bytes(), where=path, code="image-invalid")


def store(image: Image, path: Path) -> None:
    """Write an image.json atomically."""
    files.write(path, image.model_dump_json(indent=2, by_alias=True) + "\n")
