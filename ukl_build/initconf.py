# SPDX-License-Identifier: Apache-2.0
"""The configuration of the guest's init, and how it is written down.

``guest/init/conf.c`` reads it; docs/guest-init.md describes the format for people.  This module is
the one home of both uses: the build writes ``/etc/ukl/init.conf`` into the image, ukl-run and the
tests lay ``/etc/ukl/run.conf`` over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface
from pathlib import PurePosixPath
from typing import Literal

from ukl_build.image import Disk, Share

INIT_CONF = "/etc/ukl/init.conf"
RUN_CONF = "/etc/ukl/run.conf"
STATUS_PORT = "org.ukl-build.status"
"""Name of the virtio-serial port on which the init tells how the application ended."""
EXEC_PORT = "org.ukl-build.exec"
"""The same for the port on which it is asked to start programs: guest/init/exec.h."""

MAX_ID = 0xFFFFFFFE
MAX_JOBS = 512
MAX_WORDS = 1024
MAX_LIST = 64
MAX_DNS = 3
MAX_FILE = 512 * 1024

LIMITS = (
    *("cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as"),
    *("locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"),
)
"""Names of resource limits, in the order of the kernel's RLIMIT_ numbers."""


KERNELS_OWN = ("/proc", "/sys", "/dev")
"""Where the init mounts what the kernel makes; nothing else can be in there."""

EMPTY_AT_BOOT = ("/run", "/tmp")
"""Where the init mounts something empty, which hides files of the image."""


PRIVATE_FOLDERS = {"/root": 0o700}
"""Folders of every image that are not of mode 0755.  The kernel gives a folder that is there the
mode that it has in an archive laid over the image, so such an archive has to say it again."""


class Mode(StrEnum):
    """When a job runs."""

    BEFORE = "before"
    """In its place in the list; what follows waits for its end."""
    BESIDE = "beside"
    """Started in its place in the list and left running; told to end when the machine stops."""
    AFTER = "after"
    """When the application has ended by itself; not when the machine was told to stop."""


@dataclass(frozen=True)
class Job:
    """A program that the init runs besides the application; it may be the application's file."""

    argv: tuple[str, ...]
    """Path of the program, then its arguments."""
    mode: Mode = Mode.BEFORE
    name: str = ""
    """What status events call it; ``jobN`` by its place, from 0, if empty."""
    uid: int = 0
    gid: int = 0
    timeout_s: int = 0
    """Seconds after which it is killed; 0 is never."""
    any_end: bool = False
    """Go on however it ends; otherwise its failure stops the machine."""


@dataclass(frozen=True)
class Static:
    """An address that is given, not asked for."""

    address: IPv4Interface
    router: IPv4Address | None = None


@dataclass(frozen=True)
class Mount:
    """A file system that is mounted before anything is started."""

    source: str
    target: str
    type: str
    options: str = ""
    """Options of the file system; ``ro`` as the first of them mounts read-only."""


EXT4_OPTIONS = "discard,errors=remount-ro"
"""Deleted blocks are given back to the host's file.  What is damaged is not written to any more,
and the application is told: EROFS."""

SHARE_OPTIONS = "trans=virtio,version=9p2000.L,cache=mmap"
"""Linux's own dialect; nothing is kept in the guest but what is mapped, so that the host's changes
are seen at once and a shared writable mapping works all the same."""


def share_tag(number: int) -> str:
    """Return the name by which the guest mounts a shared folder."""
    return f"share{number}"


def mounts(disks: Sequence[Disk], shares: Sequence[Share], *, before: int = 0) -> tuple[Mount, ...]:
    """Return what mounts disks and shared folders, attached in this order.

    What is mounted inside of something else comes after it.

    :param before: how many disks there are before these.
    """
    found = [
        *(
            Mount(f"/dev/vd{chr(ord('a') + number)}", disk.mount, disk.fs, EXT4_OPTIONS)
            for number, disk in enumerate(disks, before)
        ),
        *(
            Mount(
                share_tag(number),
                share.mount,
                "9p",
                f"ro,{SHARE_OPTIONS}" if share.read_only else SHARE_OPTIONS,
            )
            for number, share in enumerate(shares)
        ),
    ]
    return tuple(sorted(found, key=lambda mount: mount.target.count("/")))


def check_places(mount_points: Sequence[str], paths: Sequence[str]) -> None:
    """Look whether mounts and files leave each other, and what the init mounts, alone.

    :param mount_points: where something is mounted.
    :param paths: of files.
    :raise ValueError: if two are at one place, or one could not be seen because of another.
    """
    places = (*mount_points, *paths)
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"two things are at {place} in the guest")
        if own := _holder(place, KERNELS_OWN):
            raise ValueError(f"{place} cannot be: {own} is the kernel's own in the guest")
    for path in paths:
        if hiding := _holder(path, (*mount_points, *EMPTY_AT_BOOT)):
            raise ValueError(f"{path} could not be seen: something is mounted on {hiding}")
    for place in mount_points:
        if above := _holder(place, paths):
            raise ValueError(f"nothing can be mounted on {place}: {above} is a file")


def _holder(path: str, folders: Sequence[str]) -> str | None:
    """Return which of some folders a path is, or is in."""
    return next((one for one in folders if PurePosixPath(path).is_relative_to(one)), None)


@dataclass(frozen=True)
class InitConf:
    """All that the init can be told.

    Every program it starts gets ``env``, ``cwd`` and ``limits``; user and groups are the
    application's alone, a job has its own.
    """

    app: str = "/UKL"
    """Path of the application; empty for none, the machine then runs for its jobs."""
    argv: tuple[str, ...] = ()
    """The application's arguments from ``argv[0]`` on; its path alone if empty."""
    env: Mapping[str, str] = field(
        default_factory=lambda: {"HOME": "/", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    hostname: str = ""
    limits: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    """Name of :data:`LIMITS` to soft and hard limit; ``None`` is unlimited."""
    modules: tuple[str, ...] = ()
    """Paths of kernel modules, each behind those that it needs."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    address: Static | Literal["dhcp", "none"] = "dhcp"
    dns: tuple[IPv4Address, ...] = ()
    """Name servers; with DHCP they replace the ones of the lease."""
    interface: str = ""
    """Name of the network interface; the first Ethernet one if empty."""
    dhcp_wait_s: int = 10
    """Seconds that the application's start waits for an address."""
    stop_wait_s: int = 10
    """Seconds between SIGTERM and SIGKILL."""
    entropy_wait_s: int = 10
    """Seconds that the application's start waits for random numbers."""
    jobs: tuple[Job, ...] = ()


def _escape(text: str, *, word: bool = False) -> str:
    """Write a string so that it stays on one line, and in one word of a job."""
    out = []
    for byte in text.encode("utf-8", "surrogateescape"):
        char = chr(byte)
        if char == "\\":
            out.append("\\\\")
        elif char == "\n":
            out.append("\\n")
        elif char == "\0":
            raise ValueError(f"a NUL cannot be passed to a program: {text!r}")
        elif byte < 0x20 or byte >= 0x7F or (word and char in " ,"):
            out.append(f"\\x{byte:02x}")
        else:
            out.append(char)
    return "".join(out) or ("\\e" if word else "")


def _id(value: int, what: str) -> int:
    if not 0 <= value <= MAX_ID:
        raise ValueError(f"{what} {value} is not between 0 and {MAX_ID}")
    return value


def _job(job: Job) -> str:
    if not job.argv or not job.argv[0]:
        raise ValueError("a job needs the path of a program")
    options = [str(job.mode)]
    if job.any_end:
        options.append("any")
    if job.uid:
        options.append(f"uid={_id(job.uid, 'uid')}")
    if job.gid:
        options.append(f"gid={_id(job.gid, 'gid')}")
    if job.timeout_s:
        options.append(f"timeout={job.timeout_s}")
    if job.name:
        options.append(f"name={_escape(job.name, word=True)}")
    return "job=" + " ".join([",".join(options), *(_escape(word, word=True) for word in job.argv)])


def _limit(value: int | None) -> str:
    return "unlimited" if value is None else str(value)


def _mount(mount: Mount) -> str:
    words = (mount.source, mount.target, mount.type, mount.options)
    if any(" " in word for word in words) or not all(words[:3]):
        raise ValueError(f"a mount needs a source, a target and a type without blanks: {mount}")
    return " ".join(words).rstrip()


def _mounts(mounts: Sequence[Mount]) -> list[str]:
    if len(mounts) > MAX_LIST:
        raise ValueError(f"{len(mounts)} mounts are more than the init takes ({MAX_LIST})")
    return [f"mount={_escape(_mount(mount))}" for mount in mounts]


def _args(argv: Sequence[str]) -> list[str]:
    if len(argv) > MAX_WORDS:
        raise ValueError(f"{len(argv)} arguments are more than the init takes ({MAX_WORDS})")
    return [f"arg={_escape(arg)}" for arg in argv]


def _env(env: Mapping[str, str]) -> list[str]:
    if len(env) > MAX_WORDS:
        raise ValueError(f"{len(env)} variables are more than the init takes ({MAX_WORDS})")
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"not the name of a variable: {name!r}")
    return [f"env={_escape(f'{name}={value}')}" for name, value in env.items()]


def _jobs(jobs: Sequence[Job]) -> list[str]:
    if len(jobs) > MAX_JOBS:
        raise ValueError(f"{len(jobs)} jobs are more than the init takes ({MAX_JOBS})")
    return [_job(job) for job in jobs]


def _finish(lines: list[str]) -> str:
    text = "".join(f"{line}\n" for line in lines)
    if len(text) > MAX_FILE:
        raise ValueError(f"{len(text)} bytes of configuration are more than the init reads")
    return text


def render(conf: InitConf) -> str:
    """Return the text of ``/etc/ukl/init.conf``.

    :raise ValueError: for what the init could not read or would refuse, so that a mistake is found
        by the build and not at boot.
    """
    for wait in (conf.dhcp_wait_s, conf.stop_wait_s, conf.entropy_wait_s):
        if not 0 <= wait <= 1_000_000:
            raise ValueError(f"{wait} s is no time to wait")
    for values, most, what in (
        (conf.modules, MAX_LIST, "modules"),
        (conf.sysctls, MAX_LIST, "sysctls"),
        (conf.groups, MAX_LIST, "groups"),
        (conf.dns, MAX_DNS, "name servers"),
    ):
        if len(values) > most:
            raise ValueError(f"{len(values)} {what} are more than the init takes ({most})")
    lines = ["# Written by ukl-build; docs/guest-init.md describes the format."]
    if conf.hostname:
        lines.append(f"hostname={_escape(conf.hostname)}")
    lines += [f"app={_escape(conf.app)}", *_args(conf.argv), *_env(conf.env)]
    lines.append(f"cwd={_escape(conf.cwd)}")
    lines += [f"uid={_id(conf.uid, 'uid')}", f"gid={_id(conf.gid, 'gid')}"]
    lines += [f"group={_id(group, 'group')}" for group in conf.groups]
    for name, (soft, hard) in sorted(conf.limits.items()):
        if name not in LIMITS:
            raise ValueError(
                f"no resource limit is called {name!r}; there are: {', '.join(LIMITS)}"
            )
        if hard is not None and (soft is None or soft > hard):
            raise ValueError(f"the soft limit of {name} is above its hard limit")
        lines.append(f"rlimit={name}:{_limit(soft)}:{_limit(hard)}")
    lines += [f"module={_escape(path)}" for path in conf.modules]
    lines += [f"sysctl={_escape(f'{name}={value}')}" for name, value in conf.sysctls.items()]
    lines += _mounts(conf.mounts)
    match conf.address:
        case Static(address, router):
            lines.append(f"ip={address.with_prefixlen}{f',{router}' if router else ''}")
        case name:
            lines.append(f"ip={name}")
    lines += [f"dns={server}" for server in conf.dns]
    if conf.interface:
        lines.append(f"interface={_escape(conf.interface)}")
    lines += [
        f"dhcp-wait={conf.dhcp_wait_s}",
        f"stop-wait={conf.stop_wait_s}",
        f"entropy-wait={conf.entropy_wait_s}",
        *_jobs(conf.jobs),
    ]
    return _finish(lines)


def render_overlay(
    *,
    argv: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    jobs: Sequence[Job] | None = None,
    app: str | None = None,
    mounts: Sequence[Mount] | None = None,
) -> str:
    """Return the text of ``/etc/ukl/run.conf``: what one run does differently from its image.

    :param argv: replaces all arguments, ``argv[0]`` included.
    :param env: adds variables, or gives them other values.
    :param jobs: replaces the list of jobs.
    :param app: replaces the path of the application; empty for none.
    :param mounts: replaces the list of what is mounted.
    :raise ValueError: as :func:`render`.
    """
    lines = ["# Written by ukl-run, read after init.conf."]
    if app is not None:
        lines.append(f"app={_escape(app)}")
    if argv is not None:
        lines += ["clear=arg", *_args(argv)]
    if env is not None:
        lines += _env(env)
    if mounts is not None:
        lines += ["clear=mount", *_mounts(mounts)]
    if jobs is not None:
        lines += ["clear=job", *_jobs(jobs)]
    return _finish(lines)
