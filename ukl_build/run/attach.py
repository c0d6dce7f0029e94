# SPDX-License-Identifier: Apache-2.0
"""What a run adds to its image: disks, shared folders, files.

The recipe's disks and folders have their files in the image's state folder; the command line names
others in their place, or more of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ukl_build import cpio
from ukl_build.errors import UklError
from ukl_build.image import (
    MAX_ATTACHED,
    Disk,
    Feature,
    Image,
    Init,
    Share,
    Variant,
    mount_point,
)
from ukl_build.initconf import PRIVATE_FOLDERS, Mount, check_places, mounts
from ukl_build.run import disk
from ukl_build.run.vm import Drive, Folder, Vm

ADDED_MIB = 1024
"""Size in MiB of a disk that is made and that no recipe describes."""


@dataclass(frozen=True)
class DiskOption:
    """``--disk FILE[:GUEST]``."""

    path: Path
    mount: str | None


@dataclass(frozen=True)
class ShareOption:
    """``-v HOST:GUEST[:ro]``."""

    path: Path
    mount: str
    read_only: bool


@dataclass(frozen=True)
class FileOption:
    """``--file HOST:GUEST``."""

    path: Path
    guest: str


def _split(text: str, form: str, check: Callable[[str], str]) -> tuple[Path, str]:
    host, _, guest = text.rpartition(":")
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    try:
        return Path(host), check(guest)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}: {error}") from error


def disk_option(text: str) -> DiskOption:
    """Parse ``FILE[:GUEST]``.

    :raise argparse.ArgumentTypeError: if it is none.
    """
    form = "FILE or FILE:GUEST, such as data.img:/data"
    if ":" not in text:
        if not text:
            raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
        return DiskOption(Path(text), None)
    return DiskOption(*_split(text, form, mount_point))


def share_option(text: str) -> ShareOption:
    """Parse ``HOST:GUEST[:ro]``.

    :raise argparse.ArgumentTypeError: if it is none.
    """
    form = "HOST:GUEST or HOST:GUEST:ro, such as ./www:/srv/www:ro"
    words = text.removesuffix(":ro")
    return ShareOption(*_split(words, form, mount_point), read_only=words != text)


def file_option(text: str) -> FileOption:
    """Parse ``HOST:GUEST``.

    :raise argparse.ArgumentTypeError: if it is none.
    """
    return FileOption(*_split(text, "HOST:GUEST, such as app.conf:/etc/app.conf", cpio.clean))


@dataclass(frozen=True)
class AttachedDisk:
    """A disk of a run."""

    path: Path
    disk: Disk | None
    """None for one that nobody of ours mounts or makes."""
    own: bool = False
    """In the state folder, which is made if need be."""


@dataclass(frozen=True)
class AttachedShare:
    """A shared folder of a run."""

    path: Path
    share: Share
    own: bool
    """In the state folder, as for a disk."""


@dataclass(frozen=True)
class Attached:
    """What a run has besides its image."""

    disks: tuple[AttachedDisk, ...] = ()
    shares: tuple[AttachedShare, ...] = ()
    files: tuple[FileOption, ...] = ()
    before: int = 0
    """How many disks the machine has before these."""

    def mounts(self) -> tuple[Mount, ...]:
        """Return what the init mounts."""
        return mounts(
            [one.disk for one in self.disks if one.disk],
            [one.share for one in self.shares],
            before=self.before,
        )

    def to(self, vm: Vm) -> Vm:
        """Return a machine with the disks and folders."""
        return replace(
            vm,
            drives=tuple(Drive(one.path.absolute()) for one in self.disks),
            folders=tuple(Folder(one.path.absolute(), one.share.read_only) for one in self.shares),
        )


def attached(
    image: Image,
    disks: Sequence[DiskOption],
    shares: Sequence[ShareOption],
    given: Sequence[FileOption],
    *,
    state: Path,
) -> Attached:
    """Say what a run has; nothing is looked at or made yet.

    :param given: files of the command line.
    :param state: folder of the disks and shared folders for which no other place is named.
    :raise UklError: ``run-invalid`` if the options do not fit to each other or to the image.
    """
    found = Attached(_disks(image, disks, state), _shares(image, shares, state), tuple(given))
    if len(found.disks) + len(found.shares) > MAX_ATTACHED:
        raise _invalid(
            f"more than {MAX_ATTACHED} disks and shared folders", "put several into one of them"
        )
    if image.init is Init.DIRECT and found.mounts():
        raise _invalid(
            f"{image.name} runs without our init: nobody would mount {found.mounts()[0].target}",
            f"build it with our init: {image.command} init=ring3",
        )
    files = [one.path.resolve() for one in found.disks]
    for path in files:
        if files.count(path) > 1:
            raise _invalid(f"{path} is named for two disks", "give each a file of its own")
    try:
        check_places(
            [mount.target for mount in found.mounts()], [file.guest for file in found.files]
        )
    except ValueError as error:
        raise _invalid(str(error), "give each a place of its own in the guest") from error
    _check_features(image, found)
    return found


def _invalid(message: str, hint: str) -> UklError:
    return UklError("run-invalid", message, hint=hint)


def _disks(image: Image, options: Sequence[DiskOption], state: Path) -> tuple[AttachedDisk, ...]:
    found = [AttachedDisk(state / f"{one.name}.img", one, own=True) for one in image.disks]
    own = {one.mount: number for number, one in enumerate(image.disks)}
    for option in options:
        where = option.mount
        if where is None and image.init is Init.RING3:
            if len(own) != 1:
                raise _invalid(
                    f"--disk {option.path} does not say which disk it is: {image.name} has "
                    + (f"those of {', '.join(own)}" if own else "none of its own"),
                    f"say where it is mounted: --disk {option.path}:{next(iter(own), '/data')}",
                )
            where = next(iter(own))
        if where in own:
            # Once: a second one for the same place is seen when places are compared.
            number = own.pop(where)
            found[number] = AttachedDisk(option.path, found[number].disk)
        elif where is None:
            found.append(AttachedDisk(option.path, None))
        else:
            name = f"disk{len(found)}"
            added = Disk(name=name, size_mib=ADDED_MIB, mount=where)
            found.append(AttachedDisk(option.path, added))
    return tuple(found)


def _shares(image: Image, options: Sequence[ShareOption], state: Path) -> tuple[AttachedShare, ...]:
    found = [AttachedShare(state / one.name, one, own=True) for one in image.shares]
    own = {one.mount: number for number, one in enumerate(image.shares)}
    for option in options:
        if option.mount in own:
            number = own.pop(option.mount)
            read_only = found[number].share.read_only or option.read_only
            share = found[number].share.model_copy(update={"read_only": read_only})
            found[number] = AttachedShare(option.path, share, own=False)
        else:
            share = Share(name=f"share{len(found)}", mount=option.mount, read_only=option.read_only)
            found.append(AttachedShare(option.path, share, own=False))
    return tuple(found)


def _check_features(image: Image, found: Attached) -> None:
    """Refuse disks and folders that the kernel has no driver for."""
    needed: list[Feature] = []
    for drive in found.disks:
        needed += drive.disk.needs if drive.disk else (Feature.VIRTIO_BLK,)
    for one in found.shares:
        needed += one.share.needs
    check_features(image, needed)


def check_features(image: Image, needed: Sequence[Feature]) -> None:
    """Refuse what the kernel has no driver for.

    :raise UklError: ``run-invalid``, with the fragments that bring it.
    """
    missing = [name for name in dict.fromkeys(needed) if name not in image.features]
    if missing:
        raise _invalid(
            f"the kernel of {image.name} was built without {' and '.join(missing)}",
            "leave them out: that kernel is Debian's"
            if image.variant is Variant.STOCK
            else f"build it with: {image.command} fragments={','.join(missing)}",
        )


def prepare(found: Attached, say: Callable[[str], object]) -> None:
    """Make what is missing, look at what is there.

    :raise UklError: ``run-invalid``, ``disk-invalid``, ``disk-busy``, or a program's.
    :raise OSError: if something cannot be read or made.
    """
    for one in found.disks:
        _prepare_disk(one, say)
    for share in found.shares:
        if share.own:
            share.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        elif not share.path.is_dir():
            what = "no folder" if share.path.exists() else "not there"
            raise _invalid(
                f"-v {share.path}:{share.share.mount}: {share.path} is {what}",
                f"a file is added with --file {share.path}:GUEST"
                if share.path.exists()
                else f"make it: mkdir {share.path}",
            )
    for file in found.files:
        if not file.path.is_file():
            what = "no file" if file.path.exists() else "not there"
            raise _invalid(
                f"--file {file.path}:{file.guest}: {file.path} is {what}",
                f"a folder is shared with -v {file.path}:GUEST"
                if file.path.is_dir()
                else "correct the path",
            )


def _prepare_disk(one: AttachedDisk, say: Callable[[str], object]) -> None:
    if one.disk is None:
        if not one.path.exists():
            raise _invalid(
                f"--disk {one.path}: {one.path} is not there",
                "without our init it is used as it is, and has to be there",
            )
        return
    if not one.path.exists():
        if one.own:
            one.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        elif not one.path.parent.is_dir():
            raise _invalid(
                f"--disk {one.path}: there is no folder {one.path.parent} to make it in",
                f"make it: mkdir -p {one.path.parent}",
            )
        if disk.make(one.path, one.disk):
            say(f"made {one.path}: {one.disk.size_mib} MiB, sparse, ext4, for {one.disk.mount}")
            return
    size = disk.check(one.path)
    if one.own and size < one.disk.size_mib * disk.MIB:
        say(
            f"{one.path} is smaller than the {one.disk.size_mib} MiB of the recipe; to enlarge it:"
            f" truncate -s {one.disk.size_mib}M {one.path} && resize2fs {one.path}"
        )


def overlay(found: Attached) -> list[cpio.Entry]:
    """Return the files as they are laid over the image, root's.

    :raise ValueError: if one has no path that the kernel unpacks.
    :raise OSError: if one cannot be read.
    """
    entries = [
        cpio.file(file.guest, file.path.read_bytes(), mode=file.path.stat().st_mode & 0o777)
        for file in found.files
    ]
    for path, mode in PRIVATE_FOLDERS.items():
        if any(entry.path.startswith(f"{path}/") for entry in entries):
            entries.append(cpio.folder(path, mode=mode))
    return entries
