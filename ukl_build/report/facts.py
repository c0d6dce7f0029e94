# SPDX-License-Identifier: Apache-2.0
"""What is known of an image that was built: from what the stages and measurements have left.

What a report needs and nobody has made yet, the sizes and the start, is made here and kept beside
the image; both name what they are of, so that what was measured before a build is not taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, TypeVar

from pydantic import Field

from ukl_build import cpio, dotconfig, files, kbuild, manifest, size, toolchain
from ukl_build.errors import UklError
from ukl_build.image import IMAGE_FILE, Image, Variant, load
from ukl_build.measure import report as counts
from ukl_build.measure import timeline
from ukl_build.model import Model, parse_json, store_result
from ukl_build.plan import Layout
from ukl_build.stages import kconfig, linux

Say = Callable[[str], object]

HARDENING = "hardening.config"
"""The fragment with what keeps mistakes small."""

NOT_IN_RING0 = ("X86_KERNEL_IBT", "X86_INTEL_MEMORY_PROTECTION_KEYS", "AMD_MEM_ENCRYPT")
"""What kernels can have and one with an application inside does not."""

RUNTIME = "runtime of the compiler"
INIT = "init"


class Part(size.Part):
    """What one owner has of an image, and why it is there."""

    options: tuple[str, ...] = ()
    """Of the configuration that bring it in, from the outermost folder's to its own."""


class Option(Model):
    """An option of the kernel, and why it is as it is."""

    name: str
    """Without ``CONFIG_``."""
    value: str
    prompt: str | None
    reason: str
    """A fragment's, or which options select it, or that it is Kconfig's default."""
    where: str
    """Fragment and line; of one that nobody asked for the file of Kconfig."""
    asked: bool
    """Whether a fragment asks for it."""


class Protection(Model):
    """Something that keeps mistakes small."""

    option: str
    on: bool
    what: str


class Component(Model):
    """A part that somebody has made and licensed."""

    name: str
    version: str
    licence: str
    """SPDX expression; empty if the image's description does not tell."""
    origin: str
    digest: str
    """SHA-256 of the file or of all that a tree was made of; empty if it is not known."""
    package: str = ""
    """Debian's source or binary package, if it is one."""
    package_version: str = ""


class Stage(Model):
    """A step of the build."""

    name: str
    output: str
    """Relative to the application's folder."""
    seconds: float
    """When it last ran; what comes out of a cache takes none."""


class Requests(Model):
    """What a kind of request takes, with one setting of page-table isolation."""

    name: str
    pti: bool
    instructions: dict[str, float]
    """Mean for one request, by image."""
    transitions: dict[str, float]
    """Changes of the ring, likewise."""


class Report(Model):
    """All of it."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    image: Image
    digest: str
    """SHA-256 of the bootable file."""
    file: int
    """Bytes of it."""
    memory: int | None
    """Bytes from the first to the last of the kernel in memory."""
    parts: tuple[Part, ...]
    options: tuple[Option, ...]
    protections: tuple[Protection, ...]
    components: tuple[Component, ...]
    stages: tuple[Stage, ...]
    requests: tuple[Requests, ...]
    timeline: timeline.Timeline | None
    missing: dict[str, str]
    """What there is nothing to say of, and why."""


M = TypeVar("M", size.Sizes, timeline.Timeline)


@dataclass(frozen=True)
class _Source:
    image: Image
    folder: Path
    layout: Layout
    digest: str
    say: Say


def gather(folder: Path, say: Say, *, start: bool = True) -> Report:
    """Return all that is known of an image.

    :param folder: where its image.json is.
    :param say: writes a line for people.
    :param start: whether the image is started, if nobody has measured that yet.
    :raise UklError: ``image-invalid``, ``image-missing``, ``manifest-invalid``, or as
        :func:`ukl_build.size.sizes` and :func:`ukl_build.measure.timeline.measure`.
    :raise OSError: if something cannot be read.
    """
    image = load(folder / IMAGE_FILE)
    layout = Layout.around(folder.resolve(), image.variant)
    kernel = folder / image.kernel
    if not kernel.is_file():
        raise UklError(
            "image-missing",
            f"{folder / IMAGE_FILE} names the kernel {image.kernel}, which is not there",
            hint=f"build it: {image.command}",
        )
    of = _Source(image, folder.resolve(), layout, files.sha256(kernel), say)
    missing: dict[str, str] = {}
    config = _config(of)
    parts, memory = _parts(of, config, missing)
    options, asked = _options(of, missing)
    return Report(
        image=image,
        digest=of.digest,
        file=kernel.stat().st_size,
        memory=memory,
        parts=parts,
        options=options,
        protections=tuple(_protections(asked)),
        components=tuple(_components(of)),
        stages=tuple(_stages(of)),
        requests=tuple(_requests(of, missing)),
        timeline=_timeline(of, missing, start=start),
        missing=missing,
    )


def _kept(model: type[M], path: Path) -> M | None:
    """Return what was measured before, if that is there and whole."""
    if not path.is_file():
        return None
    try:
        return parse_json(model, path.read_bytes(), where=path, code="manifest-invalid")
    except UklError:  # of an older version, or cut short: it is made again
        return None


# --- Bytes --------------------------------------------------------------------------------------


def _config(of: _Source) -> dict[str, str]:
    if not of.layout.kconfig.is_file():
        return {}
    return dotconfig.read_settings(of.layout.kconfig.read_text(encoding="utf-8"))


def _parts(
    of: _Source, config: Mapping[str, str], missing: dict[str, str]
) -> tuple[tuple[Part, ...], int | None]:
    if of.image.variant is Variant.STOCK:
        missing["bytes"] = "its kernel is Debian's, and was not built here"
        return (), None
    found = _kept(size.Sizes, of.layout.size)
    if found is None or found.kernel != of.digest:
        of.say(f"measuring what takes the bytes of {of.image.label}")
        found = size.sizes(of.layout)
        store_result(found, of.layout.size)
    tree = linux.tree_of(of.layout.linux)
    if tree is None:
        missing["options of bytes"] = "the kernel's sources are not in the cache any more"
    known = kbuild.options(tree, config) if tree is not None else kbuild.Options({})
    parts = tuple(
        Part(**part.model_dump(), options=known.of(part.file) if _is_kernels(part) else ())
        for part in found.parts
    )
    return parts, found.memory


def _is_kernels(part: size.Part) -> bool:
    return part.owner.startswith(size.KERNEL) and bool(part.file)


# --- Options ------------------------------------------------------------------------------------


def _options(
    of: _Source, missing: dict[str, str]
) -> tuple[tuple[Option, ...], tuple[dotconfig.Asked, ...]]:
    layout = of.layout
    if not layout.kconfig_report.is_file():
        missing["options"] = "its kernel was not configured here"
        return (), ()
    asked = kconfig.read_report(layout.kconfig_report.read_text(encoding="utf-8"))
    by_name = {one.name: one for one in asked}
    options = [
        Option(
            name=one.name,
            value=one.value,
            prompt=None,
            reason=one.reason,
            where=one.where,
            asked=True,
        )
        for one in asked
    ]
    tree = linux.tree_of(layout.linux)
    if tree is None:
        missing["other options"] = "the kernel's sources are not in the cache any more"
        return tuple(options), asked
    of.say("asking Kconfig for the reasons of the other options")
    version = manifest.load(layout.sources).inputs["version"]
    settings = kconfig.settings(tree, version, layout.kconfig)
    prompts = {one.name: one.prompt for one in settings}
    options = [one.model_copy(update={"prompt": prompts.get(one.name)}) for one in options]
    for one in settings:
        if one.name in by_name:
            continue
        by = ", ".join(one.selected_by)
        options.append(
            Option(
                name=one.name,
                value=one.value,
                prompt=one.prompt,
                reason=f"selected by {by}" if by else "Kconfig's default",
                where=one.where,
                asked=False,
            )
        )
    return tuple(sorted(options, key=lambda one: (not one.asked, one.name))), asked


def _protections(asked: tuple[dotconfig.Asked, ...]) -> Iterator[Protection]:
    for one in asked:
        if one.where.startswith(f"{HARDENING}:") and one.value == "y":
            yield Protection(option=one.name, on=True, what=one.reason)
    for one in asked:
        if one.name in NOT_IN_RING0 and one.value == "n":
            yield Protection(option=one.name, on=False, what=one.reason)


# --- Parts that others have made ----------------------------------------------------------------


_NONE = manifest.Manifest(stage="", inputs={}, repeat="")


def _loaded(path: Path) -> manifest.Manifest | None:
    return manifest.load(path) if path.is_file() else None


def _tree_digest(record: manifest.Manifest) -> str:
    return next(iter(record.outputs.values()), "")


def _components(of: _Source) -> Iterator[Component]:
    layout, licences = of.layout, of.image.licences
    name = of.image.name
    source = _loaded(layout.source_record)
    if of.image.variant is Variant.STOCK:
        record = _loaded(layout.packages_record) or _NONE
        for package, version in record.inputs.items():
            digest = next(
                (one for path, one in record.outputs.items() if PurePath(path).name == package), ""
            )
            yield Component(
                name=package,
                version=version,
                licence="",
                origin=f"Debian {package} {version}",
                digest=digest,
                package=package,
                package_version=version,
            )
        return
    if source is not None:
        package, version = next(iter(source.inputs.items()))
        yield Component(
            name=name,
            version=version,
            licence=licences.get(name, ""),
            origin=f"Debian source {package} {version}",
            digest=_tree_digest(source),
            package=package,
            package_version=version,
        )
    else:
        archive = _loaded(layout.home / "archive.manifest.json")
        yield Component(
            name=name,
            version="",
            licence=licences.get(name, ""),
            origin="a folder of its own",
            digest=_tree_digest(archive) if archive is not None else "",
        )
    kernel, libc = _loaded(layout.sources), _loaded(layout.libc)
    if kernel is not None:
        yield _prepared("linux", kernel, licences)
    if libc is not None:
        yield _prepared("glibc", libc, licences)
    if toolchain.CC in licences:
        yield Component(
            name=RUNTIME,
            version=toolchain.version_line(),
            licence=licences[toolchain.CC],
            origin="the compiler of the machine that built it",
            digest="",
        )
    record = _loaded(layout.debian_record) or _NONE
    for package, version in record.inputs.items():
        yield Component(
            name=package,
            version=version,
            licence=licences.get(package, ""),
            origin=f"Debian {package} {version}",
            digest=record.outputs.get(f"{layout.debian.name}/{package}", ""),
            package=package,
            package_version=version,
        )
    if layout.initramfs.is_file():
        for one in cpio.listed(layout.initramfs.read_bytes()):
            if one.path == INIT:
                yield Component(
                    name=INIT,
                    version="",
                    licence="Apache-2.0",
                    origin="ukl-build, guest/init",
                    digest=hashlib.sha256(one.content).hexdigest(),
                )


def _prepared(name: str, record: manifest.Manifest, licences: Mapping[str, str]) -> Component:
    """Return the kernel or the C library."""
    origin = record.inputs.get("origin", "")
    words = origin.split()
    return Component(
        name=name,
        version=record.inputs.get("version", ""),
        licence=licences.get(name, ""),
        origin=f"{origin}, with ukl-build's patches",
        digest=record.inputs.get("sha256") or _tree_digest(record),
        package=words[1] if words[:1] == ["Debian"] else "",
        package_version=words[2] if words[:1] == ["Debian"] else "",
    )


# --- The build, requests, the start -------------------------------------------------------------


def _stages(of: _Source) -> Iterator[Stage]:
    path = of.layout.durations
    try:
        seconds = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    others = {one.value for one in Variant} - {of.image.variant.value}
    own = (of.layout.build.name, of.layout.app)
    for key, took in seconds.items():
        name, _, output = key.partition(" ")
        parts = PurePath(output).parts  # from the folder in which it was built
        at = next((i for i in range(len(parts) - 2) if parts[i : i + 2] == own), None)
        if at is not None and parts[at + 2] not in others:
            yield Stage(name=name, output=str(PurePath(*parts[at + 2 :])), seconds=took)


def _requests(of: _Source, missing: dict[str, str]) -> Iterator[Requests]:
    path = of.layout.bench
    if not path.is_file():
        missing["requests"] = f"nobody has counted: scons app={of.image.name} twin bench"
        return
    result = parse_json(counts.Result, path.read_bytes(), where=path, code="manifest-invalid")
    for pti, bars in counts.settings(result):
        for name in counts.names(bars):
            cells = {bar.image: counts.cell(bar, name, None) for bar in bars}
            known = {image: cell for image, cell in cells.items() if cell is not None}
            yield Requests(
                name=name,
                pti=pti,
                instructions={image: cell.instructions.mean for image, cell in known.items()},
                transitions={image: cell.transitions for image, cell in known.items()},
            )


def _timeline(of: _Source, missing: dict[str, str], *, start: bool) -> timeline.Timeline | None:
    found = _kept(timeline.Timeline, of.layout.timeline)
    if found is not None and found.identity == timeline.identity(of.image, of.folder):
        return found
    if not start:
        missing["start"] = "it was not to be started"
        return None
    try:
        found = timeline.measure(of.image, of.folder, of.say)
    except UklError as error:
        if error.code not in ("run-invalid", "image-missing"):
            raise
        missing["start"] = error.message
        return None
    store_result(found, of.layout.timeline)
    return found
