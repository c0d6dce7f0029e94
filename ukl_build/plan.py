# SPDX-License-Identifier: Apache-2.0
"""What is made of a recipe: where files go, which fragments, which kernel command line.

Pure functions and frozen data; nothing here reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ukl_build import licence, toolchain
from ukl_build.cmdline import quote, quote_args
from ukl_build.errors import UklError
from ukl_build.image import (
    FEATURE_OPTIONS,
    IMAGE_FILE,
    App,
    Disk,
    Feature,
    Image,
    Init,
    Share,
    Variant,
)
from ukl_build.initconf import InitConf, check_places, mounts
from ukl_build.recipe import AppRecipe, SourcesRecipe, Stock

FRAGMENTS = ("base", "hardening", "console", "userspace", "net")
"""In every image, before those that a recipe needs."""

FRAGMENTS_LAST = ("virtio-rng", "vmgenid", "virtio-serial", "pvpanic")
"""In every image, after those that a recipe needs."""

RING0_FRAGMENTS = {
    Variant.BASE: "ukl",
    Variant.RET: "ukl-ret",
    Variant.BYPASS: "ukl-bypass",
    Variant.SHORTCUT: "ukl-shortcut",
}
"""The levels of ring 0, each on top of those before it, and the fragment of each.  A kernel
on which the application is an ordinary process has none of them."""

FASTEST = Variant.SHORTCUT
"""The level that images have unless told otherwise: the highest on which every test passes."""

RING0_OPTION = "UNIKERNEL_LINUX"
"""The option that the lowest level is about."""

CMDLINE = (
    "console=ttyS0",  # the log that ukl-run keeps
    "panic=-1",  # reset at once: QEMU, told not to reboot, ends even where pvpanic is missing
)
"""Kernel parameters of every image."""


@dataclass(frozen=True)
class Layout:
    """Where the outputs of an application are; see docs/design.md."""

    build: Path
    app: str
    variant: Variant = Variant.UKL

    @classmethod
    def around(cls, folder: Path, variant: Variant) -> Layout:
        """Return where the files of an image are, by the folder of its image.json."""
        home = folder if variant is Variant.UKL else folder.parent
        return cls(build=home.parent, app=home.name, variant=variant)

    @property
    def durations(self) -> Path:
        """How long each stage of each application took."""
        return self.build / "durations.json"

    @property
    def bench(self) -> Path:
        """What requests take, in the image and in those it is compared with."""
        return self.home / "bench.json"

    @property
    def export(self) -> Path:
        """What is made of the image for other programs than ukl-run."""
        return self.folder / "export"

    @property
    def home(self) -> Path:
        """All of an application's outputs."""
        return self.build / self.app

    @property
    def folder(self) -> Path:
        """The outputs of one variant."""
        return self.home if self.variant is Variant.UKL else self.home / self.variant

    @property
    def lock(self) -> Path:
        """Held while the application is built."""
        return self.home / "lock"

    @property
    def signatures(self) -> Path:
        """What SCons remembers; one for each application, so that two may be built at once."""
        return self.home / "sconsign.dblite"

    @property
    def objects(self) -> Path:
        """The application's own objects."""
        return self.home / "objects"

    @property
    def native(self) -> Path:
        """Where the application's own makefiles work."""
        return self.home / "native"

    @property
    def program(self) -> Path:
        """What they link: an ordinary static program."""
        return self.home / f"{self.app}.static"

    @property
    def program_record(self) -> Path:
        """What that is linked from."""
        return self.home / "program.json"

    @property
    def lint(self) -> Path:
        """What the lint found."""
        return self.home / "lint.json"

    @property
    def linked(self) -> Path:
        """The application's partial link."""
        return self.objects / "app.o"

    @property
    def link_map(self) -> Path:
        """What each file has of it, as ld tells."""
        return self.objects / "app.map"

    @property
    def ordinary(self) -> Path:
        """The twin's program, linked from that alone, with its symbols."""
        return self.folder / f"{self.app}.static"

    @property
    def stripped(self) -> Path:
        """The same as the twin's guest has it."""
        return self.folder / self.app

    @property
    def archive(self) -> Path:
        """The prefixed application, as the kernel links it."""
        return self.home / "UKL.a"

    @property
    def own_archive(self) -> Path:
        """The same, beside the kernel of a level that has a folder of its own."""
        return self.folder / self.archive.name

    @property
    def source(self) -> Path:
        """Link to the application's sources, where they are a Debian source package."""
        return self.home / "source"

    @property
    def source_record(self) -> Path:
        """Which package and which tree these are."""
        return self.home / "source.manifest.json"

    @property
    def sources(self) -> Path:
        """Which tree is built as the kernel."""
        return self.home / "sources.manifest.json"

    @property
    def libc(self) -> Path:
        """Which C library is linked."""
        return self.home / "libc.manifest.json"

    @property
    def debian(self) -> Path:
        """Links to the Debian packages that are linked."""
        return self.home / "debian"

    @property
    def debian_record(self) -> Path:
        """Which packages these are."""
        return self.home / "debian.manifest.json"

    @property
    def packages(self) -> Path:
        """Links to the Debian packages that are run."""
        return self.folder / "packages"

    @property
    def packages_record(self) -> Path:
        """Which packages these are."""
        return self.folder / "packages.manifest.json"

    @property
    def kconfig(self) -> Path:
        """The merged configuration."""
        return self.folder / "kconfig" / "config"

    @property
    def kconfig_report(self) -> Path:
        """Which fragment asked for which option, and why."""
        return self.folder / "kconfig" / "report.txt"

    @property
    def linux(self) -> Path:
        """The kernel's output folder."""
        return self.folder / "linux"

    @property
    def initramfs(self) -> Path:
        """The guest's userspace."""
        return self.folder / "initramfs.cpio"

    @property
    def kernel(self) -> Path:
        """The one bootable file."""
        return self.folder / f"{self.app}.bzImage"

    @property
    def vmlinux(self) -> Path:
        """The same kernel with its symbols."""
        return self.folder / f"{self.app}.vmlinux"

    @property
    def image(self) -> Path:
        """What ukl-run needs."""
        return self.folder / IMAGE_FILE

    @property
    def size(self) -> Path:
        """What takes the bytes of the image."""
        return self.folder / "size.json"

    @property
    def timeline(self) -> Path:
        """When it comes where as it starts."""
        return self.folder / "timeline.json"

    @property
    def report(self) -> Path:
        """The page about it."""
        return self.folder / "report.html"

    @property
    def logs(self) -> Path:
        """One log a step."""
        logs = self.build / "logs" / self.app
        return logs if self.variant is Variant.UKL else logs / self.variant


def levels(top: Variant | None) -> tuple[Variant, ...]:
    """Return a level and those below it, the lowest first; none for an ordinary process."""
    every = tuple(RING0_FRAGMENTS)
    return () if top is None else every[: every.index(top) + 1]


def fragments(
    recipe: AppRecipe, extra: tuple[str, ...] = (), level: Variant | None = FASTEST
) -> tuple[str, ...]:
    """Return the names of the fragments of an image, in the order they are merged, each once.

    :param extra: what the user adds.
    :param level: of ring 0; None for the kernel of an ordinary process.
    """
    direct = ("net-autoconf",) if recipe.guest.init is Init.DIRECT else ()
    attached: tuple[Disk | Share, ...] = (*recipe.guest.disks, *recipe.guest.shares)
    needed = tuple(feature.value for one in attached for feature in one.needs)
    ring0 = tuple(RING0_FRAGMENTS[one] for one in levels(level))
    own = (*FRAGMENTS, *recipe.kconfig.fragments, *needed, *direct, *FRAGMENTS_LAST)
    names = (*own, *ring0, *extra)
    without = set(RING0_FRAGMENTS.values()) - set(ring0)
    return tuple(name for name in dict.fromkeys(names) if name not in without)


def _stock(recipe: AppRecipe) -> Stock:
    """Return what Debian has of an application.

    :raise UklError: ``recipe-invalid`` if the recipe does not say.
    """
    if recipe.stock is None:
        raise UklError(
            "recipe-invalid",
            f"the recipe of {recipe.name} does not say which package of Debian has it",
            hint="give it a [stock] with package, tested and program, or leave out stock",
        )
    return recipe.stock


def process(recipe: AppRecipe, variant: Variant = Variant.UKL) -> App:
    """Return the application as its process sees itself.

    :raise UklError: ``recipe-invalid`` if the guest could not have its file.
    """
    if variant.ring0:
        return recipe.app
    guest = recipe.guest
    # Not /UKL: what is seen in the guest shall say what it is.
    path = f"/bin/{recipe.name}"
    if variant is Variant.STOCK:
        path = _stock(recipe).program
        if guest.init is Init.DIRECT:
            raise UklError(
                "recipe-invalid",
                f"the stock of {recipe.name} needs our init, which loads its drivers",
                hint='use init = "ring3"',
            )
    attached: tuple[Disk | Share, ...] = (*guest.disks, *guest.shares)
    try:
        check_places([one.mount for one in attached], [path, *(one.path for one in guest.files)])
    except ValueError as error:
        raise UklError(
            "recipe-invalid",
            f"the {variant} of {recipe.name} has its program at {path}: {error}",
            hint="give what the recipe has there another place",
        ) from error
    return App(path=path, argv=(path, *guest.args), env=guest.env)


def cmdline(recipe: AppRecipe, variant: Variant = Variant.UKL) -> tuple[str, ...]:
    """Return the kernel parameters of an image.

    With our init the application's arguments, environment, sysctls and limits are in the
    initramfs.  Without it the kernel's own parameters say as much of that as they can: an address
    by DHCP, sysctls, arguments after ``--``, environment variables; :func:`lacking` has the rest.

    :raise UklError: ``recipe-invalid`` if something cannot be said without our init.
    """
    guest = recipe.guest
    if guest.init is Init.RING3:
        return (*CMDLINE, *guest.cmdline)
    if guest.disks or guest.shares:
        # Not a warning: what the application writes there would be lost.
        raise UklError(
            "recipe-invalid",
            f"{recipe.name} has disks or shares, and without our init nobody mounts them",
            hint='use init = "ring3"',
        )
    try:
        sysctls = [quote(f"sysctl.{name}={value}") for name, value in guest.sysctl.items()]
        # The kernel hands parameters that it does not know to process 1 as its environment.
        env = [quote(f"{name}={value}") for name, value in guest.env.items()]
        args = quote_args(guest.args)
        for run in guest.smoke_runs:
            quote_args(run.args)
    except ValueError as error:
        raise UklError("recipe-invalid", str(error), hint='use init = "ring3"') from error
    own = (f"rdinit={process(recipe, variant).path}", "ip=dhcp")
    return (*CMDLINE, *own, *sysctls, *guest.cmdline, *env, "--", *args)


def lacking(recipe: AppRecipe) -> list[str]:
    """Return what of a recipe has no effect, for people."""
    if recipe.guest.init is Init.DIRECT and recipe.guest.limits:
        names = ", ".join(sorted(recipe.guest.limits))
        return [f"limits are not set with init=direct: {names}"]
    return []


def init_conf(
    recipe: AppRecipe, variant: Variant = Variant.UKL, modules: tuple[str, ...] = ()
) -> InitConf:
    """Return what our init is told.

    :param modules: paths of kernel modules that it loads.
    :raise UklError: ``recipe-invalid``.
    """
    guest, app = recipe.guest, process(recipe, variant)
    conf = InitConf(
        app=app.path,
        argv=app.argv,
        hostname=recipe.name.replace("_", "-"),
        limits={name: (limit.soft, limit.hard) for name, limit in guest.limits.items()},
        modules=modules,
        sysctls=guest.sysctl,
        mounts=mounts(guest.disks, guest.shares),
    )
    return replace(conf, env={**conf.env, **guest.env})


def licences(
    recipe: AppRecipe,
    linux: SourcesRecipe,
    glibc: SourcesRecipe,
    variant: Variant = Variant.UKL,
) -> dict[str, str]:
    """Return the licence of each part of the one work that an image's kernel is.

    An ordinary process is no part of it.
    """
    parts = {linux.name: linux.licence}
    if not variant.ring0:
        return parts
    parts[recipe.name] = recipe.licence
    if recipe.build.libc:
        parts |= {glibc.name: glibc.licence, toolchain.CC: licence.RUNTIME}
    return parts | {one.package: one.licence for one in recipe.debian}


def features(config: Mapping[str, str]) -> tuple[Feature, ...]:
    """Return what a kernel has for devices that not each machine has.

    :param config: its configuration, without ``CONFIG_``.
    """
    return tuple(
        feature
        for feature, options in FEATURE_OPTIONS.items()
        if all(config.get(option) == "y" for option in options)
    )


def image(
    recipe: AppRecipe,
    kernel: str,
    config: Mapping[str, str],
    licences: Mapping[str, str],
    variant: Variant = Variant.UKL,
    *,
    initrd: str | None = None,
) -> Image:
    """Return the description of an image.

    :param kernel: the bootable file, relative to the description.
    :param config: the kernel's configuration, without ``CONFIG_``.
    :param licences: of its parts, see :func:`licences`.
    :param initrd: the guest's userspace, if it is not in the bootable file.
    :raise UklError: ``recipe-invalid``.
    """
    guest = recipe.guest
    return Image(
        name=recipe.name,
        variant=variant,
        kernel=kernel,
        initrd=initrd,
        cmdline=cmdline(recipe, variant),
        memory_mib=guest.memory_mib,
        cpus=guest.cpus,
        ports=guest.ports,
        smoke=guest.smoke,
        smoke_runs=guest.smoke_runs,
        init=guest.init,
        app=process(recipe, variant),
        disks=guest.disks,
        shares=guest.shares,
        features=features(config),
        licences=dict(licences),
        redistributable=variant.ring0 and not licence.obstacles(licences),
    )
