# SPDX-License-Identifier: Apache-2.0
"""From an image and what the command line adds to the machine that is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ukl_build import cpio, manifest, toolchain
from ukl_build.cache import Cache
from ukl_build.cmdline import MAX_COMMAND_LINE, quote, quote_args
from ukl_build.errors import UklError
from ukl_build.image import IMAGE_FILE, Image, Init, Variant, load
from ukl_build.initconf import RUN_CONF, mounts, render_overlay
from ukl_build.model import nearest
from ukl_build.plan import Layout
from ukl_build.run import attach
from ukl_build.run.disk import MIB
from ukl_build.run.qemu import PROGRAM
from ukl_build.run.vm import Vm

BUILD = Path("build")


def built_images(build: Path = BUILD) -> list[Path]:
    """Return the folders of all images that were built, an application's before its variants'."""
    found = [*build.glob(f"*/{IMAGE_FILE}"), *build.glob(f"*/*/{IMAGE_FILE}")]
    return sorted(path.parent for path in found)


def short_names(build: Path = BUILD) -> list[str]:
    """Return the shortest names by which all images that were built are found."""
    return [
        str(folder.relative_to(build) if folder.parent == build else folder)
        for folder in built_images(build)
    ]


def find_image(name: str, build: Path = BUILD) -> Path:
    """Return the folder of an image.

    :param name: an application's name, a folder, its image.json, or the kernel that this names.
    :raise UklError: ``image-missing``; ``image-invalid`` of a kernel whose image.json is wrong.
    """
    given = Path(name)
    for folder in (build / name, given):
        if (folder / IMAGE_FILE).is_file():
            return folder
    if given.is_file():
        beside = given.parent / IMAGE_FILE
        if given == beside or (beside.is_file() and load(beside).kernel == given.name):
            return given.parent
        raise UklError(
            "image-missing",
            f"no {IMAGE_FILE} beside {given} says how it is run",
            hint=f"give the folder that a build has left, or start it yourself: {PROGRAM} -kernel",
        )
    known = sorted(path.parent.name for path in build.glob(f"*/{IMAGE_FILE}"))
    built = f"; built are: {', '.join(known)}" if known else ""
    raise UklError(
        "image-missing",
        f"there is no image of {name!r}: neither {build / name} nor {given} has an {IMAGE_FILE}"
        f"{nearest(name, known)}{built}",
        hint=f"`ukl-run` alone lists what is built; one that is not: scons app={given.name}",
    )


def check_files(image: Image, folder: Path, *, symbols: bool) -> None:
    """Make sure that all files of an image are there.

    :param symbols: whether gdb is to have names.
    :raise UklError: ``image-missing``.
    """
    hint = f"build it: {image.command}"
    wanted = {"kernel": image.kernel} | ({"initramfs": image.initrd} if image.initrd else {})
    for what, name in wanted.items():
        if not (folder / name).is_file():
            raise UklError(
                "image-missing",
                f"{folder / IMAGE_FILE} names the {what} {name}, which is not there",
                hint=hint,
            )
    if symbols and not vmlinux(image, folder).is_file():
        raise UklError(
            "image-missing",
            f"gdb would know no names: {vmlinux(image, folder)} is not there",
            hint=hint,
        )


def vmlinux(image: Image, folder: Path) -> Path:
    """Return where the image's kernel is as an ELF file, with its symbols."""
    return (folder / image.kernel).with_suffix(".vmlinux")


def sources(folder: Path, variant: Variant) -> dict[str, Path]:
    """Return where sources are, by where debugging information says that they are.

    Nothing of what is not on this machine.

    :param folder: of the image, whose variant this is.
    :raise UklError: ``manifest-invalid``.
    :raise OSError: if something cannot be read.
    """
    layout = Layout.around(folder, variant)
    found = {layout.app: layout.source}
    if layout.libc.is_file() and (digest := manifest.load(layout.libc).inputs.get("tree")):
        found["glibc"] = Cache.default().trees / digest
    if layout.sources.is_file():
        for tree in manifest.load(layout.sources).outputs:
            found["linux"] = Path(tree)
    return {f"{toolchain.SOURCES}/{name}": path for name, path in found.items() if path.is_dir()}


def with_overlay(
    vm: Vm,
    image: Image,
    args: Sequence[str],
    env: Mapping[str, str],
    found: attach.Attached,
    *,
    place: Callable[[bytes], Path],
) -> Vm:
    """Return the machine with what is laid over its image: files, and what its init is told.

    :param args: the application's other arguments, if any: any character can be in them.
    :param env: variables that it has besides, or with other values.
    :param place: where the archive with all that is kept; called with what is in it.
    :raise UklError: ``run-invalid`` if the guest could not take it.
    :raise OSError: if a file cannot be read.
    """
    argv = (image.app.argv[0], *args) if args else None
    other = found.mounts() != mounts(image.disks, image.shares)
    try:
        entries = attach.overlay(found)
        if image.init is Init.RING3 and (argv or env or other):
            conf = render_overlay(
                argv=argv, env=env or None, mounts=found.mounts() if other else None
            )
            entries.append(cpio.file(RUN_CONF, conf))
        data = cpio.archive(entries)
    except ValueError as error:
        raise UklError("run-invalid", str(error), hint="pass less") from error
    if not entries:
        return vm
    # It is in memory twice while it is unpacked, and the guest needs some for itself.
    if len(data) > vm.memory_mib * MIB // 4:
        raise UklError(
            "run-invalid",
            f"the files have {len(data) // MIB} MiB, more than a quarter of the guest's memory"
            f" ({vm.memory_mib} MiB)",
            hint="share their folder with -v, or give the guest more with -m",
        )
    # The kernel unpacks archives that follow each other in turn, a later file replaces an earlier.
    own = vm.initrd.read_bytes() if vm.initrd is not None else b""
    return replace(vm, initrd=place(own + data))


@contextmanager
def _refused() -> Iterator[None]:
    """Make an error of what the kernel's command line cannot have."""
    try:
        yield
    except ValueError as error:
        raise UklError(
            "run-invalid",
            str(error),
            hint="use an image with our init (init=ring3), which passes on everything",
        ) from error


def with_args(vm: Vm, args: Sequence[str]) -> Vm:
    """Return the machine with other arguments for an application that is process 1 itself.

    It gets them from the kernel's command line.

    :raise UklError: ``run-invalid`` if the kernel could not pass them on.
    """
    with _refused():
        words = quote_args(args)
    own = vm.cmdline[: vm.cmdline.index("--")] if "--" in vm.cmdline else vm.cmdline
    return _with_cmdline(vm, (*own, "--", *words))


def with_env(vm: Vm, env: Mapping[str, str]) -> Vm:
    """Return the machine with variables for an application that is process 1 itself.

    The kernel hands it the parameters that it does not know (init/main.c: unknown_bootoption()), a
    later one in place of an earlier one of the same name.

    :raise UklError: ``run-invalid`` if the kernel could not pass them on.
    """
    with _refused():
        words = [quote(f"{name}={value}") for name, value in env.items()]
    return with_parameters(vm, " ".join(words))


def with_parameters(vm: Vm, text: str) -> Vm:
    """Return the machine with further kernel parameters, before ``--`` if there is one.

    :raise UklError: ``run-invalid`` if the command line becomes too long.
    """
    end = vm.cmdline.index("--") if "--" in vm.cmdline else len(vm.cmdline)
    extra = (text,) if text else ()
    return _with_cmdline(vm, (*vm.cmdline[:end], *extra, *vm.cmdline[end:]))


def _with_cmdline(vm: Vm, cmdline: tuple[str, ...]) -> Vm:
    if len(" ".join(cmdline)) > MAX_COMMAND_LINE:
        raise UklError(
            "run-invalid",
            f"the kernel's command line is longer than {MAX_COMMAND_LINE} characters",
            hint="shorten --append or the arguments",
        )
    return replace(vm, cmdline=cmdline)
