# SPDX-License-Identifier: Apache-2.0
"""Fetches Debian packages with apt, without root and without touching the machine's own apt.

Mirrors come from the machine's own source lists (both formats), since those are what the machine
can reach, but only the suites of the Debian release that runs here are taken, and none of the
options that would switch signatures off.  Lists, cache and state are private.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukl_build import packages, proc
from ukl_build.cache import Say
from ukl_build.errors import UklError

NETWORK_VARIABLES = ("http_proxy", "https_proxy", "no_proxy")
"""What a program that downloads sees of the caller's environment."""

HINT = "check the network and /etc/apt, or name a folder with the sources: linux_src=FOLDER"

_SETTINGS = {
    "Acquire::Languages": "none",
    "Acquire::Retries": "3",
    # A list that did not arrive must not pass for a package that does not exist.
    "APT::Update::Error-Mode": "any",
    # Whatever the machine's apt.conf says: without a signature there is nobody to trust.
    "Acquire::AllowInsecureRepositories": "false",
    "Acquire::AllowWeakRepositories": "false",
    "Acquire::AllowDowngradeToInsecureRepositories": "false",
    "APT::Get::AllowUnauthenticated": "false",
    # As root apt would change to a user who cannot write to a private folder.
    "APT::Sandbox::User": "root",
}

_NOT_FETCHED = re.compile(r"E: Failed to fetch \S+  (?P<why>.*)")
_NOT_THERE = ("404 ", "File not found - ")
"""What apt says where a place lacks a file: over HTTP, and on a disk."""

_INSTALLED = re.compile(r"^Inst (\S+) \((\S+) ", re.M)
"""How ``apt-get --simulate`` names what it would install, and of which version."""

_ONE_LINE = re.compile(r"^(?P<type>deb(?:-src)?)\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>.*)$")


@dataclass(frozen=True)
class Source:
    """One place of packages, as sources.list(5) has it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str | None = None
    """Path of a keyring, or fingerprints."""

    def line(self, kind: str) -> str:
        """Return the entry in the one-line format.

        :param kind: ``deb`` or ``deb-src``.
        """
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"{kind} {option}{self.uri} {self.suite} {' '.join(self.components)}"


def parse_list(text: str) -> list[Source]:
    """Parse the one-line format; deb-src entries and comments are left out."""
    sources = []
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if not match or match["type"] != "deb":
            continue
        words = match["rest"].split()
        if len(words) < 2:
            continue
        options = dict(
            word.split("=", 1) for word in (match["options"] or "").split() if "=" in word
        )
        sources.append(Source(words[0], words[1], tuple(words[2:]), options.get("signed-by")))
    return sources


def parse_deb822(text: str) -> list[Source]:
    """Parse the deb822 format; disabled stanzas and keys embedded in the file are left out.

    A stanza with an embedded key is taken without it: the key then has to be in the machine's
    trusted keyrings, or apt refuses the place.
    """
    sources = []
    for fields in stanzas(text):
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in (
            "no",
            "false",
            "0",
            "off",
            "without",
            "disable",
        ):
            continue
        signed_by: str | None = fields.get("signed-by", "").strip()
        if not signed_by or "\n" in signed_by or "BEGIN PGP" in signed_by:
            signed_by = None
        sources += [
            Source(uri, suite, tuple(fields.get("components", "").split()), signed_by)
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return sources


def stanzas(text: str) -> list[dict[str, str]]:
    """Parse the format of Debian's control files (deb822(5)); names of fields are in lower case.

    What is no field, such as the frame of a signature, is left out.
    """
    parts = re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n"))
    return [fields for fields in map(_fields, parts) if fields]


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and key:
            fields[key] += "\n" + line.strip()
        elif ":" in line:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()
    return fields


def machine_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """Read all of the machine's source lists, in apt's order."""
    sources = []
    main = etc / "sources.list"
    parts = etc / "sources.list.d"
    for path in [main, *(sorted(parts.iterdir()) if parts.is_dir() else [])]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        match path.suffix:
            case ".list":
                sources += parse_list(text)
            case ".sources":
                sources += parse_deb822(text)
    return sources


def debian_only(sources: Iterable[Source], codename: str) -> list[Source]:
    """Keep what belongs to one Debian release, its updates and its security updates included.

    Only ``main`` is asked for, and third-party places that reuse the suite's name but not the
    component fall out here; those that reuse both fall to the pin in :func:`download`.
    """
    suites = {codename, f"{codename}-updates", f"{codename}-security"}
    kept = []
    for source in sources:
        if source.suite in suites and "main" in source.components:
            slim = Source(source.uri, source.suite, ("main",), source.signed_by)
            if slim not in kept:
                kept.append(slim)
    return kept


def codename(os_release: Path = Path("/etc/os-release")) -> str:
    """Return the name of the Debian release that runs here.

    :raise UklError: ``apt-unusable`` if it is not Debian.
    """
    text = os_release.read_text(encoding="utf-8") if os_release.is_file() else ""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    name = fields.get("VERSION_CODENAME", "").strip("\"'")
    if fields.get("ID", "").strip("\"'") != "debian" or not name:
        raise UklError(
            "apt-unusable",
            f"this machine is not a Debian release ({os_release})",
            hint="name a folder with the sources: linux_src=FOLDER",
        )
    return name


def network_env(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a program that downloads."""
    named = {key: environ[key] for key in NETWORK_VARIABLES if key in environ}
    return {**proc.BASE_ENV, **named}


def download(
    names: Sequence[str], folder: Path, sources: Iterable[Source], *, log: Path
) -> list[Path]:
    """Download the newest version of each package and return the .deb files, in that order.

    apt itself checks the signature of the index and the digests of the packages.

    :param folder: empty folder for apt's private state and the packages.
    :param log: what apt says; the update's log stands beside it with ``update-`` before its name.
    :raise UklError: ``apt-unusable`` without any source, ``tool-missing`` or ``tool-failed``.
    """
    private = _updated("deb", folder, sources, log)
    place = folder / "packages"
    place.mkdir()
    private.run("apt-get", "download", *names, cwd=place, log=log)
    found = []
    for name in names:
        (package,) = place.glob(f"{name}_*.deb")
        found.append(package)
    return found


def download_installable(
    name: str, meta: str, folder: Path, sources: Iterable[Source], *, log: Path
) -> list[Path]:
    """Download a package with all that an empty machine needs for it, and what another stands for.

    :param name: a package; its dependencies are followed, recommendations are not.
    :param meta: a package without contents; the first one that it depends on is downloaded alone.
    :param folder: as for :func:`download`.
    :param log: as for :func:`download`.
    :return: the .deb files, in the order of their names.
    :raise UklError: as :func:`download`; ``source-missing`` if ``meta`` depends on nothing.
    """
    private = _updated("deb", folder, sources, log)
    said = private.run("apt-cache", "depends", "--important", meta)
    depends = re.search(r"^  Depends: (\S+)$", said, re.M)
    if depends is None:
        raise UklError(
            "source-missing", f"Debian's package {meta} depends on none", hint="correct its name"
        )
    # Not --download-only: what is on a disk already (file:) would stay where it is.
    said = private.run("apt-get", "install", "--simulate", "--no-install-recommends", name)
    found = _INSTALLED.findall(said)
    place = folder / "packages"
    place.mkdir()
    words = [depends[1], *(f"{one}={version}" for one, version in found)]
    private.run("apt-get", "download", *words, cwd=place, log=log)
    return sorted(place.glob("*.deb"))


def download_source(
    name: str, folder: Path, sources: Iterable[Source], *, log: Path, say: Say
) -> Path:
    """Download the newest version of a source package that is there and return its .dsc.

    The other files stand beside it.  A mirror may lack files of a version that its index has; the
    next older one is taken then.  apt itself checks the signature of the index and the digests.

    :param folder: as for :func:`download`.
    :param log: as for :func:`download`.
    :raise UklError: ``apt-unusable`` without a source that is Debian's, ``source-missing`` if
        Debian has no such source package, ``tool-missing`` or ``tool-failed``.
    """
    private = _updated("deb-src", folder, sources, log)
    # Preferences say what is installed, and source packages never are: pins do not count for them.
    indexes = private.indexes()
    for origin, index in indexes:
        if origin != "Debian":
            index.unlink()
    if not any(origin == "Debian" for origin, _ in indexes):
        raise UklError("apt-unusable", "none of this machine's apt sources is Debian's", hint=HINT)
    found = private.source_versions(name)
    if not found:
        raise UklError(
            "source-missing", f"Debian has no source package {name}", hint="correct its name"
        )
    versions = sorted(found, key=packages.order)
    while True:
        version = versions.pop()
        place = folder / "packages" / version
        place.mkdir(parents=True)
        words = ("source", "--download-only", "--only-source", f"{name}={version}")
        try:
            private.run("apt-get", *words, cwd=place, log=log)
            break
        except UklError as error:
            lacking = _lacking(log) if error.code == "tool-failed" else []
            if not lacking or not versions:
                raise
            say(
                f"warning: {name} {version} is in Debian's index but not on the mirror, so the"
                f" older {versions[-1]} is taken; {'; '.join(lacking)}"
            )
    (dsc,) = place.glob("*.dsc")
    return dsc


def _lacking(log: Path) -> list[str]:
    """Return what apt says of files that a place lacks; nothing if it failed otherwise as well."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    faults = [fault for fault in map(_NOT_FETCHED.fullmatch, lines) if fault]
    if not all(fault["why"].startswith(_NOT_THERE) for fault in faults):
        return []
    return [fault[0] for fault in faults]


@dataclass(frozen=True)
class _Private:
    """A state of apt's own in a folder, with the lists of some places."""

    options: tuple[str, ...]

    def run(
        self, program: str, *words: str, cwd: Path | None = None, log: Path | None = None
    ) -> str:
        """Run one of apt's programs and return what it says, unless that goes to a log."""
        argv = [program, *self.options, "--quiet", *words]
        return proc.run(argv, cwd=cwd, env=network_env(), log=log, hint=HINT).stdout

    def indexes(self) -> list[tuple[str, Path]]:
        """Return the lists of source packages, each behind the origin that its Release states."""
        said = self.run(
            "apt-get", "indextargets", "--format", "$(ORIGIN)\t$(FILENAME)", "Created-By: Sources"
        )
        rows = [line.partition("\t") for line in said.splitlines()]
        return [(origin, Path(file)) for origin, _, file in rows]

    def source_versions(self, name: str) -> set[str]:
        """Return the versions of a source package."""
        said = self.run("apt-cache", "showsrc", "--only-source", name)
        return {fields["version"] for fields in stanzas(said)}


def _updated(kind: str, folder: Path, sources: Iterable[Source], log: Path) -> _Private:
    """Fetch the lists of places.

    :param kind: ``deb`` or ``deb-src``.
    """
    lines = [source.line(kind) for source in sources]
    if not lines:
        raise UklError(
            "apt-unusable",
            "none of this machine's apt sources belongs to the Debian release that runs here",
            hint="add Debian to /etc/apt, or name a folder with the sources: linux_src=FOLDER",
        )
    for path in (folder / "state" / "lists" / "partial", folder / "cache" / "archives" / "partial"):
        path.mkdir(parents=True)
    (folder / "sources.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "status").touch()
    # Of two places that offer the package, only Debian's own index counts.
    (folder / "preferences").write_text(
        "Package: *\nPin: release o=Debian\nPin-Priority: 990\n\n"
        "Package: *\nPin: release o=*\nPin-Priority: -1\n",
        encoding="utf-8",
    )
    settings = {
        **_SETTINGS,
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": folder / "preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    private = _Private(tuple(options))
    private.run("apt-get", "update", log=log.with_name(f"update-{log.name}"))
    return private
