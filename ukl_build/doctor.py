# SPDX-License-Identifier: Apache-2.0
"""``ukl doctor``: look whether this machine has what a build and a run need.

What is looked at must not be needed for looking: at the top only Python's own library is imported,
and whatever a check raises is what it has found.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import grp
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from ukl_build import proc, toolchain
from ukl_build.commands import Command
from ukl_build.errors import Fault, UklError

ROOT = Path(__file__).resolve().parents[1]

OPTIONAL = frozenset(
    {
        *("ccache", "passt", "gdb", "gdbserver", "strace"),
        *("busybox-static", "qemu-utils"),
    }
)
"""Those of packages.txt without which images are built and run all the same."""

LEAST: Mapping[str, tuple[int, int]] = {
    toolchain.CC: (6, 2),
    toolchain.CXX: (6, 2),
    toolchain.LD: (2, 25),
    "make": (4, 0),
}
"""Oldest versions: the C library's, in its INSTALL.  Linux 6.1 takes older ones
(Documentation/process/changes.rst)."""

GB = 10**9
BUILD_DISK = 5 * GB
"""Bytes that a first build takes, as README.md says."""
LEAST_DISK = GB // 2
"""Bytes below which even the build of something that was built before may not end."""

MIB = 1 << 20
LINK_MIB, JOB_MIB = 512, 150
"""Memory of a build, and of each job in it: objtool took 315 MiB for redis' kernel, a compiler up
to 128 MiB for a file of the kernel (/usr/bin/time, GCC 12.2); the rest is SCons'."""

PROGRAM_S = 30.0
"""Seconds after which a program counts as one that does not answer: far more than any takes on a
machine that is busy with other things."""
MIRROR_S = 4.0
"""The same for a mirror, whose silence is only a warning."""

RELEASE = "bookworm"
"""Debian's release that has linux-source-6.1."""


class State(StrEnum):
    """What a check comes to."""

    OK = "ok"
    WARNING = "warning"
    """Something is slower, lacks a comfort, or has to be got in another way."""
    FAILS = "fails"
    """A build or a run fails."""


@dataclass(frozen=True)
class Finding:
    """What a check has found."""

    state: State
    found: str
    mend: str = ""
    """The command that mends it, or what else does; empty if it is well."""


@dataclass(frozen=True)
class Host:
    """Where to look."""

    project: Path = ROOT
    env: Mapping[str, str] = field(default_factory=lambda: dict(proc.BASE_ENV))
    """Environment of the programs that the build runs."""
    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    """Where ./bootstrap looks for programs."""
    etc: Path = Path("/etc")
    dpkg: Path = Path("/var/lib/dpkg/status")
    device: Path = Path("/dev/kvm")
    meminfo: Path = Path("/proc/meminfo")
    cgroup: Path = Path("/sys/fs/cgroup")
    cpuinfo: Path = Path("/proc/cpuinfo")
    offline: bool = False
    """Ask nobody on the network."""

    @property
    def bootstrap(self) -> str:
        """The command that installs what is missing, with nothing to do afterwards."""
        return f"{shlex.quote(str(self.project / 'bootstrap'))} true"


@dataclass(frozen=True)
class Check:
    """One thing to look at."""

    name: str
    look: Callable[[Host], Finding]


def _first_line(host: Host, name: str, mend: str) -> str:
    """Ask a program for its version.

    :param mend: what installs it.
    """
    program = proc.which(name, hint=mend, env=host.env)
    said = proc.run([program, "--version"], env=host.env, timeout=PROGRAM_S, hint=mend).stdout
    return said.partition("\n")[0]


def _as_root(command: str) -> str:
    return command if os.getuid() == 0 else f"sudo {command}"


def _install(names: Sequence[str]) -> str:
    return _as_root(f"apt-get install --yes --no-install-recommends {' '.join(names)}")


# --- What is installed --------------------------------------------------------------------------


def system(host: Host) -> Finding:
    """Look at the processor's kind and Debian's release."""
    from ukl_build import apt

    if platform.machine() != "x86_64":
        return Finding(
            State.FAILS, f"the processor is {platform.machine()}", "build and run on x86-64"
        )
    named = "scons app=NAME linux_src=FOLDER glibc_src=FOLDER app_src=FOLDER debs=FOLDER"
    try:
        name = apt.codename(host.etc / "os-release")
    except UklError as error:
        return Finding(State.WARNING, f"{error.message}, so sources must be named", named)
    if name != RELEASE:
        return Finding(
            State.WARNING,
            f"Debian {name}, where {RELEASE} is what is tested and has linux-source-6.1",
            named,
        )
    return Finding(State.OK, f"Debian {name} on x86-64")


def packages(project: Path) -> dict[str, str]:
    """Return the names of packages.txt, each with its reason."""
    lines = (project / "packages.txt").read_text(encoding="utf-8").splitlines()
    words = (line.split(None, 1) for line in lines if line and not line.startswith("#"))
    return {name: reason.strip() for name, reason in words}


def _missing(host: Host) -> dict[str, str]:
    by_hand = "install what packages.txt names, in the way of this system"
    said = proc.run(
        [
            proc.which("dpkg-query", hint=by_hand, env=host.env),
            "--show",
            "--showformat=${db:Status-Abbrev} ${Package}\\n",
        ],
        env=host.env,
        timeout=PROGRAM_S,
    ).stdout
    there = {line.split()[-1] for line in said.splitlines() if line.startswith("ii")}
    return {name: why for name, why in packages(host.project).items() if name not in there}


def needed(host: Host) -> Finding:
    """Look for the packages that a build and a run need."""
    missing = [name for name in _missing(host) if name not in OPTIONAL]
    if missing:
        return Finding(State.FAILS, f"not installed: {', '.join(missing)}", _install(missing))
    count = len(packages(host.project).keys() - OPTIONAL)
    return Finding(State.OK, f"all {count} of packages.txt are installed")


def optional(host: Host) -> Finding:
    """Look for the packages that are a comfort."""
    missing = {name: why for name, why in _missing(host).items() if name in OPTIONAL}
    if missing:
        named = "; ".join(f"{name} ({why})" for name, why in missing.items())
        return Finding(State.WARNING, f"not installed: {named}", _install([*missing]))
    return Finding(State.OK, f"{', '.join(sorted(OPTIONAL))} are installed")


def python(host: Host) -> Finding:
    """Look at the Python that ./bootstrap makes the virtual environment of."""
    text = (host.project / "pyproject.toml").read_text(encoding="utf-8")
    wanted = str(tomllib.loads(text)["project"]["requires-python"])
    least = _version(wanted)
    said = proc.run(["python3", "--version"], env={"PATH": host.path}, timeout=PROGRAM_S).stdout
    if (_version(said) or (0, 0)) < (least or (0, 0)):
        return Finding(
            State.FAILS, f"{said.strip()}, where {wanted} is needed", "use Debian 12 or newer"
        )
    return Finding(State.OK, said.strip())


def _version(text: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version, of the last one in a line."""
    found = re.search(r"(\d+)\.(\d+)[.\d]*\s*$", text.strip())
    return (int(found[1]), int(found[2])) if found else None


def stamp(host: Host) -> str:
    """Return what ./bootstrap writes of the virtual environment that it would make now."""
    said = proc.run(["python3", "--version"], env={"PATH": host.path}, timeout=PROGRAM_S).stdout
    digest = hashlib.sha256((host.project / "requirements.txt").read_bytes()).hexdigest()
    return f"{host.project} {said.strip()} {digest}  -"


def environment(host: Host) -> Finding:
    """Look whether the virtual environment is the one that ./bootstrap would make."""
    path = host.project / ".venv" / "stamp"
    if not path.is_file():
        return Finding(State.FAILS, f"{path.parent} is not there, or not whole", host.bootstrap)
    folder, _, rest = path.read_text(encoding="utf-8").strip().partition(" Python ")
    # It has the folder's name as ./bootstrap was called by, which may be a symbolic link's.
    same = Path(folder).resolve() == host.project.resolve()
    if not same or rest != stamp(host).partition(" Python ")[2]:
        return Finding(
            State.WARNING,
            f"{path.parent} was made for another folder, Python or requirements.txt",
            host.bootstrap,
        )
    return Finding(State.OK, f"{path.parent} is up to date")


def libraries(host: Host) -> Finding:
    """Compare the Python packages at hand with the versions that are pinned."""
    lines = (host.project / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==", 1) for line in lines if "==" in line)
    there: dict[str, str] = {}
    for name in pins:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            there[name] = importlib.metadata.version(name)
    other = [
        f"{name} {version}, not {pins[name]}"
        for name, version in there.items()
        if version != pins[name]
    ]
    again = f"rm -f {shlex.quote(str(host.project / '.venv' / 'stamp'))} && {host.bootstrap}"
    if len(there) < len(pins):
        names = ", ".join(name for name in pins if name not in there)
        return Finding(State.FAILS, f"{sys.executable} lacks {names}", again)
    if other:
        return Finding(State.WARNING, f"other versions than pinned: {'; '.join(other)}", again)
    return Finding(State.OK, f"all {len(pins)} of requirements.txt, in the versions pinned")


def compilers(host: Host) -> Finding:
    """Look at the programs that compile and link, and compile something with the flags used."""
    mend = _install(["gcc", "g++", "libc6-dev", "binutils", "make"])
    versions = []
    for name, least in LEAST.items():
        said = _first_line(host, name, mend)
        found = _version(said)
        if found is None or found < least:
            wanted = ".".join(map(str, least))
            what = f"{name} says {said!r}, where version {wanted} or newer is needed"
            return Finding(State.FAILS, what, mend)
        versions.append(f"{name} {'.'.join(map(str, found))}")
    with tempfile.TemporaryDirectory(prefix="ukl-doctor-") as folder:
        source = Path(folder) / "small.c"
        source.write_text("#include <stdlib.h>\nsize_t small;\n", encoding="ascii")
        out = source.with_suffix(".o")
        argv: list[str | Path] = [toolchain.CC, *toolchain.CODE_FLAGS, "-c", "-o", out, source]
        proc.run(argv, env=host.env, timeout=PROGRAM_S, hint=mend)
    return Finding(State.OK, ", ".join(versions))


def emulator(host: Host) -> Finding:
    """Start QEMU with all that machines of ours have; no guest runs in it."""
    from ukl_build.image import Init
    from ukl_build.run import qemu
    from ukl_build.run.machine import Machine
    from ukl_build.run.vm import Drive, Folder, Forward, Vm

    mend = _install(["qemu-system-x86"])
    said = _first_line(host, qemu.PROGRAM, mend)
    with tempfile.TemporaryDirectory(prefix="ukl-doctor-") as folder:
        disk = Path(folder) / "disk.img"
        disk.write_bytes(bytes(MIB))
        vm = Vm(
            name="doctor",
            memory_mib=32,
            forwards=(Forward(0, 1),),
            drives=(Drive(disk),),
            folders=(Folder(Path(folder)),),
            init=Init.DIRECT,
            # It waits for a debugger that never comes.
            gdb=0,
        )
        with Machine(vm, console=Path(folder) / "console.log") as machine:
            try:
                machine.start()
            except UklError as error:
                return Finding(State.FAILS, f"{said}: {error.message}", mend)
    return Finding(State.OK, f"{said}; it has all devices that are used")


def network(host: Host) -> Finding:
    """Look whether guests have a network that stands many connections."""
    from ukl_build.run import backlog

    why = backlog.refusal()
    if why is not None:
        return Finding(
            State.WARNING,
            f"{why}; hundreds of connections at once are slow by QEMU's own network",
            "ukl-run --network passt, or a container that may: --cap-add SYS_PTRACE",
        )
    return Finding(State.OK, "QEMU's own stands many connections at once")


# --- What there is of it ------------------------------------------------------------------------


def disk(host: Host) -> Finding:
    """Look whether files can be written, and how many."""
    from platformdirs import user_state_path

    from ukl_build.cache import Cache

    cache = Cache.default().root
    places = {
        "build": host.project / "build",
        "cache": cache,
        "state": user_state_path("ukl-build"),
        "temporary files": Path(tempfile.gettempdir()),
    }
    shares: dict[int, list[str]] = {}
    free: dict[int, int] = {}
    for what, wanted in places.items():
        path = next(one for one in (wanted, *wanted.parents) if os.access(one, os.F_OK))
        if not os.access(path, os.W_OK | os.X_OK):
            change = f"chown -R {getpass.getuser()} {shlex.quote(str(path))}"
            return Finding(State.FAILS, f"{path} ({what}) cannot be written", _as_root(change))
        room = os.statvfs(path)
        device = path.stat().st_dev
        shares.setdefault(device, []).append(what)
        free[device] = room.f_bavail * room.f_frsize
    text = "; ".join(
        f"{free[device] / GB:.1f} GB free for {', '.join(names)}"
        for device, names in shares.items()
    )
    # What else is on a disk of somebody's is theirs to know; the cache alone is ours to delete.
    mend = f"rm -r {shlex.quote(str(cache))}" if cache.is_dir() else "df -h shows what is full"
    mend += "; or elsewhere: XDG_CACHE_HOME=FOLDER scons app=NAME build=FOLDER"
    if min(free.values()) < LEAST_DISK:
        return Finding(State.FAILS, text, mend)
    large = [free[device] for device, names in shares.items() if {"build", "cache"} & {*names}]
    if min(large) < BUILD_DISK:
        return Finding(
            State.WARNING, f"{text}, where a first build takes {BUILD_DISK / GB:.0f} GB", mend
        )
    return Finding(State.OK, text)


def memory(host: Host) -> Finding:
    """Look at what a build and a guest have to work with."""
    from ukl_build.run.vm import Vm

    text = host.meminfo.read_text(encoding="ascii")
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    available = int(found[1]) * 1024 // MIB if found else 0
    try:
        # A container may have less than the machine.
        limit = int((host.cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((host.cgroup / "memory.current").read_text(encoding="ascii"))
        available = min(available, (limit - used) // MIB)
    except (OSError, ValueError):
        pass  # no container with a limit ("max")
    jobs = len(os.sched_getaffinity(0))
    build, guest = LINK_MIB + jobs * JOB_MIB, Vm("").memory_mib
    text = f"{available} MiB are free, {jobs} processor{'s' if jobs > 1 else ''}"
    if available < max(guest, LINK_MIB):
        return Finding(
            State.FAILS,
            f"{text}; a build needs {LINK_MIB} MiB, a guest {guest} MiB",
            "end other programs (ps aux --sort=-rss | head); for a guest: ukl-run -m MIB",
        )
    if available < build:
        fewer = max(1, (available - LINK_MIB) // JOB_MIB)
        return Finding(
            State.WARNING,
            f"{text}; a build with {jobs} jobs takes {build} MiB",
            f"scons -j{fewer} app=NAME",
        )
    return Finding(State.OK, text)


def clock(host: Host) -> Finding:
    """Look whether the clock is behind what is already there.

    It matters: make takes what is of tomorrow for newer than all that it makes, and apt and pip
    refuse signatures and certificates that are not valid yet.
    """
    newest = max(
        path.stat().st_mtime for path in (host.project / "README.md", host.dpkg) if path.exists()
    )
    now = time.time()
    if now < newest:
        days = (newest - now) / 86400
        today = time.strftime("%Y-%m-%d %H:%M")
        return Finding(
            State.FAILS,
            f"it is {days:.1f} days behind files that are there already ({today})",
            _as_root("timedatectl set-ntp true"),
        )
    return Finding(State.OK, time.strftime("%Y-%m-%d %H:%M %Z"))


def kvm(host: Host) -> Finding:
    """Look whether hardware virtualisation works; without it guests are emulated."""
    from platformdirs import user_state_path

    from ukl_build.run import accel
    from ukl_build.run.vm import Accel

    cpuinfo = host.cpuinfo.read_text(encoding="utf-8")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    state = user_state_path("ukl-build")
    verdict = accel.choose("auto", state=state, boot_id=boot, cpuinfo=cpuinfo, device=host.device)
    if verdict.accel is Accel.KVM:
        return Finding(State.OK, "KVM works: a small guest came to its end")
    emulated = "nothing else has to be done: guests are emulated meanwhile"
    flags = accel.virtualisation(cpuinfo)
    if not flags:
        mend = (
            "switch virtualisation on in the firmware, or nested virtualisation on the machine that"
            f" this one runs on; {emulated}"
        )
    elif not host.device.exists():
        module = "kvm_intel" if "vmx" in flags else "kvm_amd"
        mend = f"{_as_root(f'modprobe {module}')}; {emulated}"
    elif accel.unusable(host.device, cpuinfo) is not None:
        group = grp.getgrgid(host.device.stat().st_gid).gr_name
        mend = f"{_as_root(f'usermod -aG {group} {getpass.getuser()}')}, and log in again"
    else:
        again = shlex.quote(str(state / accel.VERDICT))
        mend = f"{emulated}; to try again before the next boot: rm {again}"
    return Finding(State.WARNING, verdict.why, mend)


def ports(host: Host) -> Finding:
    """Look whether ``scons run`` could listen on the ports of the recipes."""
    from ukl_build import recipe
    from ukl_build.run import ports as probing

    folder = host.project / "recipes"
    taken, mend, free = [], [], []
    for name in recipe.names(folder, recipe.Kind.APPLICATION):
        app, _ = recipe.load_app(folder, name)
        for port in app.guest.ports:
            what = f"{port.guest}/{port.proto}"
            why = probing.refusal(port.guest, port.proto)
            if why is None:
                free.append(what)
            else:
                taken.append(f"{what} of {name}: {why}")
                mend.append(f"tools/ukl-run --qemu {name} -p 0:{what}")
    if taken:
        return Finding(State.WARNING, "; ".join(taken), "; ".join(mend))
    return Finding(State.OK, f"the recipes' are free: {', '.join(free)}")


APT_HELPER = "/usr/lib/apt/apt-helper"


def sources(host: Host) -> Finding:
    """Look whether apt could fetch Debian's sources: ask a mirror for one small file."""
    from ukl_build import apt

    named = "scons app=NAME linux_src=FOLDER glibc_src=FOLDER app_src=FOLDER debs=FOLDER"
    try:
        release = apt.codename(host.etc / "os-release")
    except UklError as error:
        return Finding(State.WARNING, error.message, named)
    places = apt.debian_only(apt.machine_sources(host.etc / "apt"), release)
    if not places:
        return Finding(
            State.WARNING,
            f"{host.etc / 'apt'} names no place of Debian {release}",
            f"add one, as sources.list(5) says; or {named}",
        )
    if host.offline:
        return Finding(State.OK, f"places of Debian: {len(places)}, not asked (--offline)")
    for place in places:
        with tempfile.TemporaryDirectory(prefix="ukl-doctor-") as folder:
            url = f"{place.uri.rstrip('/')}/dists/{place.suite}/InRelease"
            argv = [APT_HELPER, "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0"]
            try:
                proc.run(
                    [*argv, "download-file", url, f"{folder}/InRelease"],
                    env={**apt.network_env(), **host.env},
                    timeout=MIRROR_S,
                )
            except UklError as error:
                return Finding(
                    State.WARNING,
                    f"{url} did not come: {error.message}",
                    f"{_as_root('apt-get update')} says why; or {named}",
                )
    return Finding(State.OK, f"places of Debian that answer: {len(places)}")


CHECKS: tuple[Check, ...] = (
    Check("system", system),
    Check("packages", needed),
    Check("optional", optional),
    Check("python", python),
    Check("environment", environment),
    Check("libraries", libraries),
    Check("compilers", compilers),
    Check("qemu", emulator),
    Check("network", network),
    Check("disk", disk),
    Check("memory", memory),
    Check("clock", clock),
    Check("kvm", kvm),
    Check("ports", ports),
    Check("apt", sources),
)


def look(check: Check, host: Host) -> Finding:
    """Do a check; whatever it raises is a finding as well."""
    try:
        return check.look(host)
    except UklError as error:
        said = error.detail.partition("\n")[0]
        return Finding(State.FAILS, f"{error.message}: {said}".removesuffix(": "), error.hint)
    except ImportError as error:
        # That it is missing is a finding of its own.
        return Finding(State.WARNING, f"cannot be looked at: {error}", host.bootstrap)
    except Exception as error:  # a broken machine breaks checks in ways that nobody foresees
        return Finding(
            State.FAILS,
            f"cannot be looked at: {type(error).__name__}: {error}",
            "see what is wrong with what it names",
        )


def findings(host: Host) -> dict[str, Finding]:
    """Do all checks, at the same time: most of their time is programs'."""
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        found = pool.map(lambda check: look(check, host), CHECKS)
        return {check.name: finding for check, finding in zip(CHECKS, found, strict=True)}


_STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILS: "bold red"}


def _printer() -> Callable[[str, str | None], None]:
    """Return what prints a line in a style, if there is what can."""
    try:
        from rich.console import Console
    except ImportError:
        return lambda line, style: print(line)
    console = Console(highlight=False)
    # Lines are not broken: commands are to be copied.
    return lambda line, style: console.print(line, style=style, markup=False, soft_wrap=True)


def _show(found: Mapping[str, Finding]) -> None:
    show = _printer()
    width = max(map(len, found))
    for name, finding in found.items():
        show(f"{finding.state:7}  {name:{width}}  {finding.found}", _STYLES[finding.state])
        if finding.state is not State.OK:
            show(f"{'':7}  {'':{width}}  -> {finding.mend}", None)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it for programs")
    parser.add_argument("--offline", action="store_true", help="ask nobody on the network")


def _run(options: argparse.Namespace) -> int:
    found = findings(Host(offline=options.offline))
    if options.json:
        rows = [{"check": name, **asdict(finding)} for name, finding in found.items()]
        print(json.dumps({"checks": rows}, indent=1))
    else:
        _show(found)
    fails = any(finding.state is State.FAILS for finding in found.values())
    return int(Fault.MACHINE) if fails else 0


COMMAND = Command(
    "doctor",
    "check whether this machine has what a build and a run need",
    _arguments,
    _run,
    examples="  ukl doctor             one line a check, and the command that mends it\n"
    "  ukl doctor --offline   the same without the network\n"
    "  ukl doctor --json      for programs\n"
    "\nexit status: 0, or 3 if something fails; a warning is no failure\n",
)


def alone(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``ukl doctor ...`` where the modules of other commands cannot be."""
    parser = argparse.ArgumentParser(prog="ukl doctor", description=COMMAND.help)
    COMMAND.arguments(parser)
    return COMMAND.run(parser.parse_args(sys.argv[2:] if argv is None else argv))
