# SPDX-License-Identifier: Apache-2.0
"""What stands between SCons and the stages.

SCons only schedules: it knows files and what they are made of.  The kernel's tree and output folder
are one file each to it (a manifest and a bzImage); what is out of date in there is make's business.

Actions are functions of this module, since SCons puts a function's code into the signature of what
it builds and cannot look into a closure; their data comes through the environment, and what must
trigger a rebuild is a Value() node.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import json
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import SCons.Script as scons
from SCons import dblite
from SCons.Node.Python import Value

from ukl_build import (
    distribute,
    files,
    licence,
    manifest,
    packages,
    plan,
    proc,
    recipe,
    toolchain,
)
from ukl_build.cache import Cache
from ukl_build.elf.linked import check_linked
from ukl_build.errors import UklError, refused, reported
from ukl_build.image import Init, Variant
from ukl_build.model import nearest
from ukl_build.progress import Reporter
from ukl_build.run import accel
from ukl_build.run.vm import Accel
from ukl_build.stages import (
    archive,
    debian,
    dsc,
    image,
    kconfig,
    libc,
    lint,
    linux,
    native,
    sources,
    stock,
    userspace,
)

# --- What can be asked for ----------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """A ``name=value`` of the command line."""

    name: str
    help: str
    default: str = ""
    values: tuple[str, ...] = ()
    """Allowed values; empty if any will do."""
    pattern: str = ""
    """Regular expression of what is allowed; empty if anything is."""
    example: str = ""
    """Something that the expression allows."""


def variables(apps: Sequence[str]) -> list[Variable]:
    """Return all variables."""
    inits = tuple(init.value for init in Init)
    return [
        Variable(
            "app",
            f"application to build: {', '.join(apps)}; or a folder with a recipe of your own",
        ),
        *_source_variables(recipe.Kind.LINUX, "Linux", "6.1.192"),
        *_source_variables(recipe.Kind.GLIBC, "the C library", "2.36"),
        Variable(
            "app_src",
            "folder with the Debian source package (.dsc and what it lists) that the application"
            " is, or an unpacked tree",
        ),
        Variable(
            "debs",
            "folder with the Debian packages (.deb) that the recipe links, or that stock runs",
        ),
        Variable("fragments", "more fragments of kconfig/, separated by commas"),
        Variable("init", "process 1 in place of the recipe's", values=inits),
        Variable(
            "level",
            "how the application enters the kernel: base as from ring 3, ret returns by RET, bypass"
            " calls the functions of system calls, shortcut goes past VFS to sockets and pipes",
            default=plan.FASTEST.value,
            values=tuple(level.value for level in plan.RING0_FRAGMENTS),
        ),
        Variable(
            "accel",
            "bench: time requests instead of counting instructions; tcg is emulation, and its"
            " times say nothing of hardware",
            values=tuple(one.value for one in Accel),
        ),
        Variable(
            "ccache",
            "1: the compiler cache must be there, 0: compile without it; else if it is installed",
            values=("0", "1"),
        ),
        Variable(
            "distcc",
            "compile on several machines: 1 for those that distcc knows, or a list as DISTCC_HOSTS",
        ),
        Variable("cache_dir", "folder of SCons' cache of built files, shared by any who have it"),
        Variable("build", "folder for all outputs", default="build"),
        Variable("tests", "arguments of pytest for the targets test and check-long"),
    ]


def _source_variables(kind: recipe.Kind, name: str, version: str) -> list[Variable]:
    return [
        Variable(f"{kind}_src", f"folder with {name}'s tarball or .deb, or an unpacked tree"),
        Variable(
            f"{kind}_sha256",
            f"SHA-256 of {name}'s tarball; enables the upstream place",
            pattern=r"[0-9a-f]{64}",
            example="64 digits from 0-9a-f, as sha256sum prints them",
        ),
        Variable(
            f"{kind}_version",
            f"version to fetch from upstream, with {kind}_sha256",
            pattern=r"\d+\.\d+(\.\d+)?",
            example=version,
        ),
    ]


@dataclass(frozen=True)
class Target:
    """A name that can be given instead of a file."""

    name: str
    help: str
    needs_app: bool = True


TARGETS = (
    Target("image", "the bootable file and image.json (the default)"),
    Target("twin", "the same as an ordinary process on the same kernel without UNIKERNEL_LINUX"),
    Target("stock", "Debian's own package of the application, on Debian's own kernel"),
    Target("run", "start the image in QEMU and show its console"),
    Target("smoke", "start the image, ask it or let it end, check what it says"),
    Target("bench", "count what requests take, beside those of twin and stock that are built"),
    Target("ladder", "build all levels and the twin, smoke-test each, and bench them in one table"),
    Target(
        "profile", "tell in which functions the instructions of requests are, and in the twin's"
    ),
    Target("size", "tell what takes the bytes of the image: application, libraries, kernel"),
    Target("menuconfig", "look at the kernel's options; changes are shown, not kept"),
    Target("savedefconfig", "write the configuration in its shortest form"),
    Target("test", "the tests that every change must pass", needs_app=False),
    Target("check-long", "the tests that take longer", needs_app=False),
)


def main(arguments: Sequence[tuple[str, str]], targets: Sequence[str]) -> None:
    """Read the command line and tell SCons what there is to do."""
    root = Path(scons.Dir("#").abspath)

    def declare() -> int:
        _main(root, arguments, [str(target) for target in targets])
        return 0

    if status := reported(declare):
        scons.Exit(status)


def _main(root: Path, arguments: Sequence[tuple[str, str]], targets: Sequence[str]) -> None:
    scons.SetOption("no_progress", True)
    scons.SetOption("num_jobs", os.cpu_count() or 1)  # -j on the command line wins
    scons.SetOption("stack_size", 8192)  # KiB for a thread; SCons' own 256 are for running programs
    apps = recipe.names(root / "recipes", recipe.Kind.APPLICATION)
    known = variables(apps)
    _help(known)
    if scons.GetOption("help"):
        return
    values = read_variables(known, arguments)
    alone = {target.name for target in TARGETS if not target.needs_app} & set(targets)
    if alone:
        if set(targets) - alone:
            # Tests build images themselves, and would wait for the lock that we hold.
            raise UklError(
                "variable-invalid",
                f"{', '.join(sorted(alone))} cannot be combined with other targets",
                hint="run them one after the other",
            )
        _test_targets(root, values)
        return
    _check_combination(targets)
    if not values["app"]:
        raise UklError(
            "variable-invalid",
            "which application?",
            hint=f"give app=NAME, one of: {', '.join(apps)}; scons -h lists all there is",
        )
    Build(root, values).declare()


def _check_combination(targets: Sequence[str]) -> None:
    """Refuse targets of which each could be meant for either of two images.

    :raise UklError: ``variable-invalid``.
    """
    started = [name for name in ("run", "smoke") if name in targets]
    built = [name for name in ("twin", "stock", "ladder") if name in targets]
    if built and started:
        raise UklError(
            "variable-invalid",
            f"{built[0]} and {started[0]}: which of the images is meant?",
            hint=f"run one after the other; {built[0]} says how its image is started, {started[0]}"
            " starts the application in ring 0",
        )


def read_variables(
    known: Sequence[Variable], arguments: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """Return the value of every variable; an empty one is as good as none.

    :raise UklError: ``variable-invalid`` or ``app-unknown``, with the nearest name.
    """
    by_name = {variable.name: variable for variable in known}
    values = {variable.name: variable.default for variable in known}
    for name, value in arguments:
        variable = by_name.get(name)
        if variable is None:
            raise UklError(
                "variable-invalid",
                f"there is no variable {name!r}{nearest(name, by_name)}",
                hint="scons -h lists all variables",
            )
        if value and variable.values and value not in variable.values:
            raise UklError(
                "variable-invalid",
                f"{name}={value} is unknown{nearest(value, variable.values)}",
                hint=f"choose one of: {', '.join(variable.values)}",
            )
        if value and variable.pattern and not re.fullmatch(variable.pattern, value):
            raise UklError(
                "variable-invalid",
                f"{name}={value} is not understood",
                hint=f"write it like this: {variable.example}",
            )
        values[name] = value or variable.default
    for kind in (recipe.Kind.LINUX, recipe.Kind.GLIBC):
        if values.get(f"{kind}_version") and not values[f"{kind}_sha256"]:
            raise UklError(
                "variable-invalid",
                f"{kind}_version has no effect without {kind}_sha256: what is not verified"
                " is not fetched",
                hint=f"add {kind}_sha256=..., the digest of that version's tarball",
            )
    return values


def _help(known: Sequence[Variable]) -> None:
    """Have SCons show the variables and targets for -h."""
    lines = ["", "scons app=NAME [VARIABLE=VALUE...] [TARGET...]", "", "Variables:"]
    for variable in known:
        allowed = f" ({' | '.join(variable.values)})" if variable.values else ""
        default = variable.default or "none"
        lines.append(f"  {variable.name:14} {variable.help}{allowed}; default: {default}")
    lines += ["", "Targets:"]
    lines += [f"  {target.name:14} {target.help}" for target in TARGETS]
    lines += ["", "scons -H lists SCons' own options (-j, -k, -n, -c, ...).", ""]
    scons.Help("\n".join(lines))


# --- What there is to build ---------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """Where the sources of the kernel or of the C library come from."""

    project: recipe.SourcesRecipe
    folder: Path
    """The recipe's, with patches."""
    options: sources.Options

    @classmethod
    def of(cls, root: Path, kind: recipe.Kind, values: Mapping[str, str]) -> Origin:
        """Return what the recipe and the command line say."""
        folder = values[f"{kind}_src"]
        options = sources.Options(
            folder=Path(folder).resolve() if folder else None,
            sha256=values[f"{kind}_sha256"] or None,
            version=values[f"{kind}_version"] or None,
        )
        found = recipe.load_sources(root / "recipes", kind)
        return cls(found, root / "recipes" / kind.value, options)

    def state(self, cache: Cache) -> dict[str, str]:
        """Return what, besides the recipe, decides which tree is built."""
        folder = self.options.folder
        state = {"cache": str(cache.root), "options": repr(self.options)}
        if folder is not None and sources.is_tree(folder):
            state["folder"] = files.stat_digest(folder)
        elif folder is not None:
            state["folder"] = _folder_state(folder)
        return state


def _folder_state(folder: Path) -> str:
    """Return what changes whenever the files of a folder do, by their sizes and times."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    status = {path.name: path.stat() for path in paths if path.is_file()}
    return repr({name: (one.st_size, one.st_mtime_ns) for name, one in status.items()})


@dataclass(frozen=True)
class Job:
    """What all actions of a build need; SCons hands it to them through the environment."""

    root: Path
    recipe_folder: Path
    """Where the recipe is, with what belongs to it."""
    home: Path
    """What the recipe's folders are relative to."""
    layout: plan.Layout
    app: recipe.AppRecipe
    linux: Origin
    glibc: Origin
    app_src: Path | None
    """Folder with the Debian source package that the application is, or its tree."""
    debs: Path | None
    """Folder with the Debian packages that the recipe links, or that stock runs."""
    fragments: tuple[Path, ...]
    files: tuple[userspace.ExtraFile, ...]
    """Files that the recipe puts into the guest."""
    cache: Cache
    compiler: toolchain.Compiler
    reporter: Reporter
    again: str
    """The scons command line without targets."""

    @property
    def variant(self) -> Variant:
        """In which way the application is run."""
        return self.layout.variant

    def of(self, variant: Variant) -> Job:
        """Return the same for where another variant is."""
        return replace(self, layout=replace(self.layout, variant=variant))

    def repeat(self, target: Path) -> str:
        """Return the command line that makes a file again, for manifests."""
        return f"{self.again} {os.path.relpath(target, self.root)}"


HOW = frozenset({"accel", "ccache", "distcc", "cache_dir"})
"""Variables that do not decide on what is built."""


def _compiler(values: Mapping[str, str], cache: Cache) -> toolchain.Compiler:
    """Return how compilers are called; with distcc as many at once as its machines have slots."""
    env = None
    # Nothing is compiled, and nobody asked.
    if values["distcc"] and not (scons.GetOption("no_exec") or scons.GetOption("clean")):
        where = distribute.distributed(values["distcc"], cache.distcc, os.environ)
        env = where.env
        if where.slots:
            scons.SetOption("num_jobs", where.slots)  # -j on the command line wins
    cached = {"": None, "0": False, "1": True}[values["ccache"]]
    return toolchain.compiler(cache.ccache, cached=cached, distcc=env)


class Build:
    """The graph of one application."""

    def __init__(self, root: Path, values: Mapping[str, str]) -> None:
        recipes = root / "recipes"
        found, folder = recipe.load_app(recipes, values["app"])
        if values["init"]:
            guest = found.guest.model_copy(update={"init": Init(values["init"])})
            found = found.model_copy(update={"guest": guest})
        if values["app_src"] and found.source.debian is None:
            raise UklError(
                "variable-invalid",
                f"app_src has no effect: {found.name} is built from {found.source.folder}",
                hint="leave it out; it is for applications that are a Debian source package",
            )
        plan.cmdline(found)  # what could not be run is not built first
        if values["accel"]:
            if "bench" not in map(str, scons.COMMAND_LINE_TARGETS):
                raise UklError(
                    "variable-invalid",
                    "accel has no effect without bench",
                    hint="other targets take KVM where it works; ukl-run has --accel",
                )
            accel.here(values["accel"])
        if "stock" in map(str, scons.COMMAND_LINE_TARGETS):
            plan.process(found, Variant.STOCK)
        build = root / values["build"]
        cache = Cache.default()
        self.extra = tuple(name for name in values["fragments"].split(",") if name)
        self.level = Variant(values["level"])
        # All that decides on what is built.
        built = {name: value for name, value in values.items() if value and name not in HOW}
        given = [f"{name}={value}" for name, value in built.items()]
        layout = plan.Layout(build, found.name)
        self.job = Job(
            root=root,
            recipe_folder=folder,
            home=root if folder.parent == recipes else folder,
            layout=layout,
            app=found,
            linux=Origin.of(root, recipe.Kind.LINUX, values),
            glibc=Origin.of(root, recipe.Kind.GLIBC, values),
            app_src=Path(values["app_src"]).resolve() if values["app_src"] else None,
            debs=Path(values["debs"]).resolve() if values["debs"] else None,
            fragments=fragment_files(
                root / "kconfig", plan.fragments(found, self.extra, self.level)
            ),
            files=guest_files(folder, found.guest.files),
            cache=cache,
            compiler=_compiler(values, cache),
            reporter=Reporter(layout.durations, quiet=scons.GetOption("silent")),
            again=shlex.join(["scons", *given]),
        )
        self.env = scons.Environment(
            tools=["gcc", "g++", "gas", "compilation_db"],
            ENV=dict(self.job.compiler.env),
            PRINT_CMD_LINE_FUNC=_print_command,
            UKL=self.job,
            UKL_ACCEL=values["accel"],
            UKL_LEVEL=self.level,
        )
        # Not before: SCons asks the compilers for their versions even if nothing is to be built,
        # and ccache would make its folder for that.
        compiler = self.job.compiler
        self.env.Replace(CC=compiler.command, CXX=compiler.cxx_command)
        if values["cache_dir"]:
            self.env.CacheDir(values["cache_dir"])

    def declare(self) -> None:
        """Tell SCons about all files and targets."""
        job, layout = self.job, self.job.layout
        if not (scons.GetOption("no_exec") or scons.GetOption("clean")):
            _lock(layout, job.reporter.say)
            _pass_signals_on()
        path = layout.signatures
        scons.SConsignFile(str(path.with_suffix("")), Signatures(path))  # SCons adds the suffix
        atexit.register(_tell_full_disk, [layout.build, self.job.cache.root, Path(gettempdir())])
        compiler = _value(toolchain.version_line())

        libraries = self._packages()
        build = job.app.build
        if isinstance(build, recipe.NativeBuild) or build.cxx:
            libraries.append(_value(toolchain.version_line(toolchain.CXX)))
        needs = [compiler, *libraries]
        if isinstance(build, recipe.NativeBuild):
            objects = self._native(build, [*self._source(), *needs])
        else:
            objects = self._objects(build, needs, self._source())
        if job.app.build.libc:
            libraries += self._sources("libc", layout.libc, job.glibc, compiler)
        tables = _files(job.root / "linker", "*.toml")
        zero = _value(job.app.zero)
        parts = [*objects, *libraries]
        linted = self._stage("lint", [layout.lint], [*parts, *tables, zero, compiler])
        linked = self._stage("link", [layout.linked, layout.link_map], [*parts, *linted])[:1]
        archived = self._stage("archive", [layout.archive], [*linked, *tables, zero])
        tree = self._sources("sources", layout.sources, job.linux)
        config, described = self._bootable(job, tree, compiler, kernel=archived)
        database = self._database(build) if isinstance(build, recipe.PlainBuild) else []
        self.env.Clean(described, [str(layout.folder), str(layout.logs)])
        self.env.Alias("image", described)
        self.env.Default([*described, *database])
        twin = self._twin(linked, tree, compiler)
        compared = [*described, *self._built(twin)]
        if job.app.stock is not None:
            compared += self._built(self._stock(job.app.stock, compiler))
        rungs = self._rungs(described, archived, tree, compiler)
        for name, function, needs in (
            ("run", _run, described),
            ("smoke", _smoke, described),
            ("bench", _bench, compared),
            ("ladder", _ladder, [*described, *twin, *(node for rung in rungs for node in rung)]),
            ("profile", _profile, [*described, *self._built(twin)]),
            ("size", _size, described),
            ("menuconfig", _menuconfig, config),
            ("savedefconfig", _savedefconfig, config),
        ):
            action = scons.Action(function, cmdstr=f"{name} {job.app.name}")
            self.env.AlwaysBuild(self.env.Alias(name, needs, action))

    def _bootable(
        self,
        job: Job,
        tree: Sequence[Any],
        compiler: Any,
        *,
        kernel: Sequence[Any] = (),
        files: Sequence[Any] = (),
    ) -> tuple[list[Any], list[Any]]:
        """Declare an image; return its configuration and its description.

        :param tree: the kernel's.
        :param kernel: what is linked into it besides.
        :param files: what is in the guest besides.
        """
        layout, guest = job.layout, _value(job.app.model_dump_json())
        names = _value([path.name for path in job.fragments])
        fragments = [str(path) for path in job.fragments]
        config = self._stage(
            "kconfig",
            [layout.kconfig, layout.kconfig_report],
            [*tree, names, compiler, *fragments],
            job,
        )[:1]  # nothing is made of the report
        init = _files(userspace.INIT_SOURCE, "*.[ch]")
        own = sorted({str(file.source) for file in job.files})
        initramfs = self._stage(
            "userspace", [layout.initramfs], [guest, compiler, *init, *own, *files], job
        )
        made = self._stage(
            "linux",
            [layout.kernel, layout.vmlinux],
            [*tree, *config, *kernel, *initramfs, compiler],
            job,
        )
        return config, self._stage("image", [layout.image], [guest, *config, *made], job)

    def _variant(self, variant: Variant, level: Variant | None) -> Job:
        """Return the job of another kernel of this application."""
        names = plan.fragments(self.job.app, self.extra, level)
        return replace(
            self.job.of(variant), fragments=fragment_files(self.job.root / "kconfig", names)
        )

    def _twin(self, linked: Sequence[Any], tree: Sequence[Any], compiler: Any) -> list[Any]:
        """Declare the application as an ordinary process; return what :meth:`_beside` does.

        :param linked: the application's partial link, of which the program is made.
        """
        job = self._variant(Variant.TWIN, None)
        layout = job.layout
        program = self._stage("program", [layout.stripped, layout.ordinary], linked, job)[:1]
        _, described = self._bootable(job, tree, compiler, files=program)
        return self._beside(job, described)

    def _stock(self, wanted: recipe.Stock, compiler: Any) -> list[Any]:
        """Declare Debian's own; return what :meth:`_beside` does."""
        job = self.job.of(Variant.STOCK)
        layout = job.layout
        folder = str(job.debs), _folder_state(job.debs) if job.debs else ""
        state = _value([str(job.cache.root), *folder, wanted.package, wanted.tested])
        record = self._fetched("packages", layout.packages_record, [state], job)
        guest = _value(job.app.model_dump_json())
        init = _files(userspace.INIT_SOURCE, "*.[ch]")
        own = sorted({str(file.source) for file in job.files})
        described = self._stage(
            "stock",
            [layout.image, layout.kernel, layout.initramfs],
            [*record, guest, compiler, *init, *own],
            job,
        )
        return self._beside(job, described)

    def _rungs(
        self, described: Sequence[Any], archived: Sequence[Any], tree: Sequence[Any], compiler: Any
    ) -> list[list[Any]]:
        """Declare the other levels of ring 0, which are built only if they are asked for.

        :param described: the image itself, whose kernel theirs begin as.
        :return: the description of each.
        """
        rungs = []
        for level in plan.RING0_FRAGMENTS:
            if level is not self.level:
                job = self._variant(level, level)
                _, rung = self._bootable(job, tree, compiler, kernel=[*archived, *described])
                self.env.Clean(rung, [str(job.layout.folder), str(job.layout.logs)])
                rungs.append(rung)
        return rungs

    def _beside(self, job: Job, described: Sequence[Any]) -> list[Any]:
        """Declare the target of another variant, which is built only if it is asked for.

        :return: its description.
        """
        self.env.Clean(described, [str(job.layout.folder), str(job.layout.logs)])
        action = scons.Action(_tell, cmdstr=None)
        self.env.AlwaysBuild(self.env.Alias(str(job.variant), described, action, UKL=job))
        return list(described)

    def _built(self, described: Sequence[Any]) -> Sequence[Any]:
        """Return an image that something is compared with, if it was built before.

        An old one would be compared with a new one.
        """
        return described if described and Path(described[0].abspath).is_file() else ()

    def _source(self) -> list[Any]:
        """Declare the application's sources, and return which they are."""
        job = self.job
        if job.app.source.debian is None:
            return []
        folder = job.app_src
        state = ""
        if folder is not None:
            state = files.stat_digest(folder) if dsc.is_tree(folder) else _folder_state(folder)
        inputs = [job.app.source.model_dump(), str(job.cache.root), str(folder), state]
        return self._fetched("source", job.layout.source_record, [_value(inputs)])

    def _packages(self) -> list[Any]:
        """Declare the Debian packages, and return what they are and what is taken of them."""
        job = self.job
        if not job.app.debian:
            return []
        # Not only which packages: what is taken of them is an input of the link as well.
        wanted = _value([one.model_dump() for one in job.app.debian])
        folder = str(job.debs), _folder_state(job.debs) if job.debs else ""
        state = _value([str(job.cache.root), *folder])
        return [*self._fetched("debian", job.layout.debian_record, [wanted, state]), wanted]

    def _native(self, build: recipe.NativeBuild, inputs: Sequence[Any]) -> list[Any]:
        """Declare what the application's own makefiles build; return the record of its link."""
        layout, own = self.job.layout, self.job.app.source.folder
        outputs = [layout.program_record, layout.program]
        sources = _files(self.job.home / own, "**/*") if own is not None else []
        return self._stage("native", outputs, [_value(build.model_dump()), *sources, *inputs])[:1]

    def _objects(
        self, build: recipe.PlainBuild, needs: Sequence[Any], source: Sequence[Any]
    ) -> list[Any]:
        """Declare the application's objects.

        :param source: which sources they are made of, if these are not in this project.
        """
        job = self.job
        if job.app.source.folder is not None:
            folder = job.home / job.app.source.folder
        else:
            folder = job.layout.source
            self._unpacked([folder / name for name in build.sources], source)
        headers = packages.include_flags(
            job.app.debian, os.path.relpath(job.layout.debian, job.root)
        )
        mapped = [toolchain.mapped(job.root, ".")]
        if job.app.source.folder is None or not folder.is_relative_to(job.root):
            mapped.append(toolchain.mapped(folder, f"{toolchain.SOURCES}/{job.app.name}"))
        # They keep folders out of what is made, so another checkout's cache has the same.
        names = [*headers, "$(", *mapped, "$)"]
        flags, cxxflags = (
            [*toolchain.DEFAULT_FLAGS, *own, *toolchain.CODE_FLAGS, *names]
            for own in (build.cflags, build.cxxflags)
        )
        self.env.Replace(CCFLAGS=(), CFLAGS=flags, CXXFLAGS=cxxflags, ASPPFLAGS=flags)
        nodes = [
            node
            for name in build.sources
            for node in self.env.Object(str(job.layout.objects / f"{name}.o"), str(folder / name))
        ]
        # SCons looks for headers neither in the packages nor in the compiler's own folders.
        self.env.Depends(nodes, [*needs, *source])
        return nodes

    def _unpacked(self, paths: Sequence[Path], source: Sequence[Any]) -> None:
        """Declare files that are there once their tree is; they are the cache's, not ours."""
        if scons.GetOption("clean"):
            return  # nobody's targets, so that they stay
        for path in paths:
            nodes = self.env.Command(str(path), source, scons.Action(_is_in_tree, cmdstr=None))
            self.env.Precious(nodes)
            self.env.NoCache(nodes)

    def _database(self, build: recipe.PlainBuild) -> Any:
        path = self.job.layout.folder / "compile_commands.json"
        database = self.env.CompilationDatabase(str(path))
        names = list(build.sources)
        self.env.Depends(
            database, _value([names, list(self.env["CFLAGS"]), list(self.env["CXXFLAGS"])])
        )
        for node in database:
            # The tool has it rewritten each time; with prerequisites it need not be.
            node.set_always_build(0)
        return database

    def _sources(self, name: str, record: Path, origin: Origin, *more: Any) -> list[Any]:
        """Declare a stage that prepares sources."""
        recipes = _files(origin.folder, "**/*")
        return self._fetched(name, record, [_value(origin.state(self.job.cache)), *more, *recipes])

    def _fetched(
        self, name: str, record: Path, inputs: Sequence[Any], job: Job | None = None
    ) -> list[Any]:
        """Declare a stage that leaves something in the cache, and here only what that is.

        :param job: that of another variant.
        """
        nodes = self.env.Command(
            str(record),
            [*inputs, *_code(name)],
            scons.Action(_stage, _announce),
            UKL_STAGE=name,
            UKL=job or self.job,
        )
        self.env.NoCache(nodes)  # it names a folder of this machine
        if record.is_file() and not _is_there(record):
            self.env.AlwaysBuild(nodes)
        return list(nodes)

    def _stage(
        self,
        name: str,
        outputs: Sequence[Path],
        inputs: Sequence[Any],
        job: Job | None = None,
    ) -> list[Any]:
        """Declare a stage; its own code is one of its inputs.

        :param job: that of another variant.
        """
        job = job or self.job
        nodes = self.env.Command(
            [str(path) for path in (*outputs, _manifest(job, name))],
            [*inputs, *_code(name)],
            scons.Action(_stage, _announce),
            UKL_STAGE=name,
            UKL=job,
        )
        # Outputs are replaced atomically; removing them first would only lose the old ones.
        self.env.Precious(nodes)
        # The manifest may change where the outputs do not; nothing is made of it.
        return list(nodes[: len(outputs)])


def fragment_files(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Return the files of fragments.

    :raise UklError: ``fragment-unknown``, with the nearest name.
    """
    known = {path.stem: path for path in folder.glob("*.config")}
    for name in names:
        if name not in known:
            raise UklError(
                "fragment-unknown",
                f"there is no fragment {name!r}{nearest(name, known)}",
                hint=f"choose from: {', '.join(sorted(known))}",
            )
    return tuple(known[name] for name in names)


def guest_files(folder: Path, files: Sequence[recipe.GuestFile]) -> tuple[userspace.ExtraFile, ...]:
    """Return the files that a recipe puts into the guest.

    :param folder: the recipe's.
    :raise UklError: ``recipe-invalid`` if one is not there.
    """
    for file in files:
        if not (folder / file.source).is_file():
            raise UklError(
                "recipe-invalid",
                f"{folder / recipe.RECIPE_FILE} puts {file.source} at {file.path} in the guest,"
                f" and there is no file {folder / file.source}",
                hint="put the file there, or correct guest.files",
            )
    return tuple(
        userspace.ExtraFile(folder / file.source, file.path, file.mode, file.uid, file.gid)
        for file in files
    )


def _is_there(record: Path) -> bool:
    """Tell whether a record names a folder that the cache, which may be emptied, still has."""
    try:
        return all((record.parent / name).is_dir() for name in manifest.load(record).outputs)
    except UklError:  # damaged, or of another version of ours
        return False


def _code(stage: str) -> list[str]:
    """Return the files of a stage's code."""
    package = Path(__file__).parent
    return [file for pattern in CODE[stage] for file in _files(package, pattern)]


def _manifest(job: Job, stage: str) -> Path:
    return job.layout.folder / f"{stage}.manifest.json"


def _value(content: object) -> Any:
    """Return a node that stands for data; JSON, so that its text is the same each time."""
    return scons.Value(json.dumps(content, sort_keys=True))


def _files(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path) for path in folder.glob(pattern) if path.is_file())


def _lock(layout: plan.Layout, say: Callable[[str], None]) -> None:
    """Keep a second build of the same application waiting until this process has ended.

    While a build runs there is something in the lock's file.  SCons remembers what it built only at
    its end and does not look at what it finds: after an outright kill it would take the outputs for
    those of the build before, which they are not if an edit was taken back meanwhile.
    """
    layout.folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another build in {layout.folder}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if os.fstat(descriptor).st_size:
        say("the last build was killed; all its steps are looked at again")
        layout.signatures.unlink(missing_ok=True)
    os.pwrite(descriptor, b"running\n", 0)
    atexit.register(os.ftruncate, descriptor, 0)


class Signatures:
    """SCons' own file of what it remembers; if that cannot be written, it remembers nothing."""

    def __init__(self, path: Path) -> None:
        """Prepare to be opened.

        :param path: where SCons puts it.
        """
        self._path = path
        self._inner: Any = None

    def open(self, *words: Any) -> Signatures:
        """Open it, as a module of dbm does."""
        self._inner = dblite.open(*words)
        return self

    def __getitem__(self, key: str) -> Any:
        return self._inner[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._inner[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def sync(self) -> None:
        """Write it.

        :raise SystemExit: if that fails.  What is there is of the build before, and would hide what
            was built since: it is removed.
        """
        try:
            self._inner.sync()
        except OSError as error:
            self._inner.close = lambda: None  # which would write it again
            for path in (self._path.with_suffix(dblite.TMP_SUFFIX), self._path):
                path.unlink(missing_ok=True)
            error.filename = self._path
            print(refused(error), file=sys.stderr)
            raise SystemExit(2) from None


FULL_KIB = 1024
"""Less than this is left of a disk on which nothing can be built."""


def _tell_full_disk(folders: Sequence[Path]) -> None:
    """Name the disks that are full, at the end of a build that has failed.

    Compilers and make say so on their own, among all that they say, and remove what they had
    written: there may be some room again.
    """
    if not scons.GetBuildFailures():
        return
    told = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            at = os.statvfs(folder)
            free_kib = at.f_bavail * at.f_frsize >> 10
            if free_kib < FULL_KIB and at.f_fsid not in told:
                told.add(at.f_fsid)
                what = f"{os.strerror(errno.ENOSPC)}, or almost: {free_kib} KiB"
                print(refused(OSError(errno.ENOSPC, what, folder)), file=sys.stderr)


def _pass_signals_on() -> None:
    """End running programs when SCons is told to stop.

    SCons takes the signals itself and then waits for what runs, which may be minutes.  A wake-up
    descriptor learns of signals whoever handles them.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def listen() -> None:
        while number := os.read(read, 1):
            if number[0] in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                proc.terminate_all()

    threading.Thread(target=listen, daemon=True).start()


# --- Actions ------------------------------------------------------------------------------------


def _print_command(line: str, target: Any, source: Any, env: Any) -> None:
    env["UKL"].reporter.say(line)


def _announce(target: Any, source: Any, env: Any) -> str:
    return str(env["UKL"].reporter.announce(env["UKL_STAGE"], str(target[0])))


def _stage(target: Any, source: Any, env: Any) -> int:
    """Run a stage, show its error, leave its manifest."""
    job: Job = env["UKL"]
    name = env["UKL_STAGE"]

    def work() -> int:
        compiler, cached = job.compiler.counted(job.layout.logs / f"{name}.ccache")
        with job.reporter.stage(name, str(target[0]), cached):
            STAGES[name](replace(job, compiler=compiler))
        if len(target) > 1:  # what is fetched leaves its manifest alone
            _record(job, name, target, source)
        return 0

    return reported(work)


def _record(job: Job, name: str, target: Any, source: Any) -> None:
    """Write a stage's manifest, which is its last target."""
    inputs = {}
    for number, node in enumerate(source):
        if isinstance(node, Value):
            inputs[f"value {number}"] = node.get_text_contents()
        else:
            inputs[str(node)] = files.sha256(Path(node.abspath))
    outputs = {
        os.path.relpath(node.abspath, job.layout.folder): files.sha256(Path(node.abspath))
        for node in target[:-1]
    }
    repeat = job.repeat(Path(target[0].abspath))
    manifest.store(
        manifest.Manifest(stage=name, inputs=inputs, outputs=outputs, repeat=repeat),
        Path(target[-1].abspath),
    )


def _libc(job: Job) -> None:
    tree = _prepare(job, job.glibc)
    library = libc.build(
        tree.path,
        tree.digest,
        job.cache,
        jobs=int(scons.GetOption("num_jobs")),
        compiler=job.compiler,
        logs=job.layout.logs,
        say=job.reporter.say,
    )
    inputs = {"origin": tree.origin, "version": tree.version, "tree": tree.digest}
    libc.record(library, inputs, job.layout.libc, repeat=job.repeat(job.layout.libc))


def _debian(job: Job) -> None:
    layout = job.layout
    wanted = job.app.debian
    made = debian.prepare(wanted, job.debs, job.cache, logs=layout.logs, say=job.reporter.say)
    record = layout.debian_record
    packages.publish(made, layout.debian, record, stage="debian", repeat=job.repeat(record))


def _source(job: Job) -> None:
    layout, source = job.layout, job.app.source
    assert source.debian is not None and source.tested is not None  # or it is not declared
    tree = dsc.prepare(
        source.debian,
        source.tested,
        job.app_src,
        job.cache,
        logs=layout.logs,
        say=job.reporter.say,
    )
    job.reporter.say(f"{tree.package} {tree.version} from {tree.origin}")
    record = layout.source_record
    dsc.publish(tree, layout.source, record, repeat=job.repeat(record))


def _is_in_tree(target: Any, source: Any, env: Any) -> int:
    """See that a file that the recipe names is in the tree."""
    job: Job = env["UKL"]
    path = Path(target[0].abspath)
    if path.is_file():
        return 0
    tree = job.layout.source
    name = str(path.relative_to(tree))
    there = sorted(str(one.relative_to(tree)) for one in tree.rglob(f"*{path.suffix}"))
    error = UklError(
        "source-missing",
        f"the source package {job.app.source.debian} has no file {name}{nearest(name, there)}",
        hint="correct the recipe's build.sources",
    )
    print(error, file=sys.stderr)
    return error.exit_status


def _native(job: Job) -> None:
    layout, build, own = job.layout, job.app.build, job.app.source.folder
    assert isinstance(build, recipe.NativeBuild)  # or it is not declared
    wanted = job.app.debian
    native.build(
        job.app.name,
        job.home / own if own is not None else layout.source.resolve(),
        build,
        layout.native,
        layout.program_record,
        program=layout.program,
        headers=packages.include_flags(wanted, str(layout.debian)),
        libraries=packages.library_folders(wanted, layout.debian),
        jobs=int(scons.GetOption("num_jobs")),
        compiler=job.compiler,
        logs=layout.logs,
    )


def _parts(job: Job) -> tuple[list[Path], libc.Parts]:
    """Return what is linked: the application's own objects, and what is around them."""
    build = job.app.build
    if isinstance(build, recipe.NativeBuild):
        program = native.read(job.layout.program_record)
        around = libc.parts(libc.read(job.layout.libc), cxx=program.cxx)
        libraries = (*program.archives, *around.libraries)
        return list(program.objects), replace(around, libraries=libraries)
    objects = [job.layout.objects / f"{name}.o" for name in build.sources]
    around = libc.Parts()
    if build.libc:
        around = libc.parts(libc.read(job.layout.libc), cxx=build.cxx)
    debians = tuple(packages.archives(job.app.debian, job.layout.debian))
    return objects, replace(around, libraries=(*debians, *around.libraries))


def _lint(job: Job) -> None:
    objects, around = _parts(job)
    log = job.layout.logs / "lint.log"
    link = (*around.before, *objects, *around.libraries, *around.after)
    report = lint.check_link(
        [os.path.relpath(p, job.root) if p.is_relative_to(job.root) else str(p) for p in link],
        job.layout.lint,
        unprefixed=job.root / "linker" / "unprefixed.toml",
        provided=job.root / "linker" / "provided.toml",
        zero=job.app.zero,
        log=log,
    )
    if report.findings:
        mark = "warning: " if report.counts.warning else ""
        job.reporter.say(f"{mark}lint: {report.counts}: {os.path.relpath(log, job.root)}")


def _link(job: Job) -> None:
    objects, around = _parts(job)
    archive.link_application(
        objects,
        job.layout.linked,
        link_map=job.layout.link_map,
        before=around.before,
        libraries=around.libraries,
        after=around.after,
        log=job.layout.logs / "link.log",
    )


def _archive(job: Job) -> None:
    tables = job.root / "linker"
    archive.make_archive(
        job.layout.linked,
        job.layout.archive,
        unprefixed=tables / "unprefixed.toml",
        provided=tables / "provided.toml",
        zero=job.app.zero,
    )


def _prepare(job: Job, origin: Origin) -> sources.Tree:
    tree = sources.prepare(
        origin.project,
        origin.folder,
        origin.options,
        job.cache,
        logs=job.layout.logs,
        say=job.reporter.say,
    )
    job.reporter.say(f"{origin.project.name} {tree.version} from {tree.origin}")
    return tree


def _sources(job: Job) -> None:
    tree = _prepare(job, job.linux)
    sources.record(tree, job.layout.sources, repeat=job.repeat(job.layout.sources))


def _kconfig(job: Job) -> None:
    tree = sources.read_tree(job.layout.sources)
    log = job.layout.logs / "kconfig.log"
    layout = job.layout
    kconfig.configure(
        tree.path,
        tree.version,
        job.fragments,
        layout.kconfig,
        report=layout.kconfig_report,
        log=log,
        without="" if job.variant.ring0 else plan.RING0_OPTION,
    )


def _program(job: Job) -> None:
    layout = job.layout
    log = layout.logs / "program.log"
    archive.link_program(layout.linked, layout.ordinary, layout.stripped, log=log)


def _userspace(job: Job) -> None:
    spec = userspace.Userspace(
        conf=plan.init_conf(job.app, job.variant),
        files=job.files,
        app_file=None if job.variant.ring0 else job.layout.stripped,
    )
    userspace.build_initramfs(spec, job.layout.initramfs, log=job.layout.logs / "userspace.log")


def _linux(job: Job) -> None:
    if job.variant in plan.RING0_FRAGMENTS:
        # The kernel asks for its application beside itself, and has most of its objects already.
        place = job.layout.own_archive
        files.link(place, Path(os.path.relpath(job.layout.archive, place.parent)))
        linux.begin_as(job.of(Variant.UKL).layout.linux, job.layout.linux)
    linux.build(
        sources.read_tree(job.layout.sources).path,
        job.layout.kconfig,
        job.layout.linux,
        bzimage=job.layout.kernel,
        vmlinux=job.layout.vmlinux,
        jobs=int(scons.GetOption("num_jobs")),
        compiler=job.compiler,
        logs=job.layout.logs,
        say=job.reporter.say,
        check=check_linked if job.variant.ring0 else None,
    )


def _packages(job: Job) -> None:
    layout, wanted = job.layout, job.app.stock
    assert wanted is not None  # or it is not declared
    made = stock.prepare(wanted, job.debs, job.cache, logs=layout.logs, say=job.reporter.say)
    record = layout.packages_record
    repeat = job.repeat(record)
    packages.publish(made, layout.packages, record, stage="packages", repeat=repeat)


def _stock(job: Job) -> None:
    layout, wanted = job.layout, job.app.stock
    assert wanted is not None  # or it is not declared
    root = stock.gather(wanted, layout.packages)
    taken = tuple(
        userspace.ExtraFile(source, path, source.stat().st_mode & 0o777)
        for path, source in sorted(root.files.items())
        if path not in {file.path for file in job.files}  # the recipe's own come first
    )
    spec = userspace.Userspace(
        conf=plan.init_conf(job.app, job.variant, root.modules),
        files=(*taken, *job.files),
        folders=root.folders,
        app_file=root.program,
    )
    log = layout.logs / "userspace.log"
    userspace.build_initramfs(spec, layout.initramfs, log=log)
    files.copy(root.kernel, layout.kernel)
    parts = plan.licences(job.app, job.linux.project, job.glibc.project, job.variant)
    image.describe(
        job.app,
        layout.kernel,
        root.config,
        layout.image,
        parts,
        variant=job.variant,
        initrd=layout.initramfs,
    )


def _image(job: Job) -> None:
    for line in plan.lacking(job.app):
        job.reporter.say(f"warning: {line}")
    parts = plan.licences(job.app, job.linux.project, job.glibc.project, job.variant)
    for line in licence.obstacles(parts):
        job.reporter.say(f"warning: this image may not be handed on: {line}")
    layout = job.layout
    image.describe(job.app, layout.kernel, layout.kconfig, layout.image, parts, variant=job.variant)


STAGES: Mapping[str, Callable[[Job], None]] = {
    "source": _source,
    "native": _native,
    "debian": _debian,
    "libc": _libc,
    "lint": _lint,
    "link": _link,
    "archive": _archive,
    "program": _program,
    "sources": _sources,
    "kconfig": _kconfig,
    "userspace": _userspace,
    "linux": _linux,
    "packages": _packages,
    "stock": _stock,
    "image": _image,
}

CODE: Mapping[str, tuple[str, ...]] = {
    "source": ("stages/dsc.py", "packages.py", "apt.py"),
    "debian": ("stages/debian.py", "packages.py", "apt.py"),
    "libc": ("stages/sources.py", "stages/libc.py", "packages.py", "apt.py", "toolchain.py"),
    "native": ("stages/native.py", "recorder.py", "packages.py", "toolchain.py"),
    "lint": (
        *("stages/lint.py", "lint/*.py", "stages/libc.py", "stages/native.py", "recorder.py"),
        *("packages.py", "toolchain.py", "elf/*.py"),
    ),
    "link": (
        *("stages/archive.py", "stages/libc.py", "stages/native.py", "recorder.py"),
        *("packages.py", "toolchain.py", "elf/*.py"),
    ),
    "archive": ("stages/archive.py", "elf/*.py"),
    "program": ("stages/archive.py", "elf/*.py"),
    "sources": ("stages/sources.py", "packages.py", "apt.py"),
    "kconfig": ("stages/kconfig.py", "dotconfig.py", "toolchain.py"),
    "userspace": ("stages/userspace.py", "cpio.py", "initconf.py", "plan.py"),
    "linux": ("stages/linux.py", "dotconfig.py", "toolchain.py", "elf/linked.py"),
    "packages": ("stages/stock.py", "packages.py", "apt.py", "elf/loading.py"),
    "stock": (
        *("stages/stock.py", "stages/userspace.py", "stages/image.py", "packages.py", "apt.py"),
        *("elf/loading.py", "cpio.py", "initconf.py", "plan.py", "image.py", "cmdline.py"),
        *("dotconfig.py", "licence.py"),
    ),
    "image": ("stages/image.py", "image.py", "plan.py", "cmdline.py", "dotconfig.py", "licence.py"),
}
"""Files of the package that decide what a stage writes.  What all share (errors, files, programs)
and recipes, whose content is an input itself, are left out."""


# --- Targets that are no files ------------------------------------------------------------------


def _user_env(job_env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program that talks to the person at the terminal."""
    named = ("TERM", "HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "TMPDIR")
    return {**job_env, **{key: os.environ[key] for key in named if key in os.environ}}


def _python_env(root: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{proc.BASE_ENV['PATH']}"
    return _user_env({**proc.BASE_ENV, "PATH": path, "PYTHONPATH": str(root)})


def _attach(root: Path, argv: Sequence[str]) -> int:
    """Run a program of ours at the terminal."""
    sys.stdout.flush()
    try:
        return proc.attach([sys.executable, *argv], cwd=root, env=_python_env(root))
    except UklError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def _qemu(job: Job, *words: str) -> int:
    return _attach(job.root, ["-m", "ukl_build.run.cli", "--qemu", str(job.layout.folder), *words])


def _run(target: Any, source: Any, env: Any) -> int:
    job: Job = env["UKL"]
    ports = [f"{port.guest}:{port.guest}/{port.proto}" for port in job.app.guest.ports]
    return _qemu(job, *(word for port in ports for word in ("-p", port)))


def _smoke(target: Any, source: Any, env: Any) -> int:
    return _qemu(env["UKL"], "--smoke")


def _tell(target: Any, source: Any, env: Any) -> int:
    """Say how an image is started for which there is no target."""
    job: Job = env["UKL"]
    folder = os.path.relpath(job.layout.folder, job.root)
    job.reporter.say(f"start it: tools/ukl-run --qemu {folder}; with --smoke it is asked something")
    return 0


def _count(
    env: Any,
    out: str,
    others: Sequence[Variant],
    name: Variant = Variant.UKL,
    *,
    program: str = "cli",
) -> int:
    """Count what requests take on the image and on others.

    :param out: name of the result file.
    :param name: what the image is called there.
    :param program: of ukl_build/measure.
    """
    job: Job = env["UKL"]
    folder = job.layout.folder
    words = ["--recipe", str(job.recipe_folder), "--out", str(folder / out), "--ukl", name.value]
    if env["UKL_ACCEL"]:
        words += ["--accel", env["UKL_ACCEL"]]
    images = [str(folder), *(str(folder / name) for name in others)]
    return _attach(job.root, ["-m", f"ukl_build.measure.{program}", *words, *images])


def _bench(target: Any, source: Any, env: Any) -> int:
    return _count(env, env["UKL"].layout.bench.name, (Variant.TWIN, Variant.STOCK))


def _profile(target: Any, source: Any, env: Any) -> int:
    return _count(env, "profile.json", (Variant.TWIN,), program="profiler")


def _ladder(target: Any, source: Any, env: Any) -> int:
    """Ask each level what its recipe says, then count."""
    job: Job = env["UKL"]
    others = [level for level in plan.RING0_FRAGMENTS if level is not env["UKL_LEVEL"]]
    if job.app.guest.smoke or job.app.guest.smoke_runs:
        for variant in (Variant.UKL, *others):
            if status := _smoke(target, source, {"UKL": job.of(variant)}):
                return status
    return _count(env, "ladder.json", (*reversed(others), Variant.TWIN), env["UKL_LEVEL"])


def _size(target: Any, source: Any, env: Any) -> int:
    job: Job = env["UKL"]
    return _attach(
        job.root, ["-m", "ukl_build.size", "--build", str(job.layout.build), job.app.name]
    )


def _menuconfig(target: Any, source: Any, env: Any) -> int:
    job: Job = env["UKL"]
    tree = sources.read_tree(job.layout.sources)
    try:
        return kconfig.menuconfig(tree.path, tree.version, job.layout.kconfig, job.reporter.say)
    except UklError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def _savedefconfig(target: Any, source: Any, env: Any) -> int:
    job: Job = env["UKL"]
    tree = sources.read_tree(job.layout.sources)
    out = job.layout.kconfig.with_name("defconfig")
    try:
        kconfig.savedefconfig(tree.path, tree.version, job.layout.kconfig, out)
    except UklError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    job.reporter.say(f"written: {out}")
    return 0


def _test_targets(root: Path, values: Mapping[str, str]) -> None:
    """Declare the targets that run pytest."""
    try:
        tests = shlex.split(values["tests"])
    except ValueError as error:
        raise UklError(
            "variable-invalid", f"tests={values['tests']}: {error}", hint="close the quotes"
        ) from error
    jobs = scons.GetOption("num_jobs")
    if not tests and jobs > 1:
        # A whole file to each: those of a file have much in common that is made once.  In the order
        # in which they stand: the longest come first.
        tests = ["-n", str(jobs), "--dist", "loadfile", "--no-loadscope-reorder"]
    env = scons.Environment(tools=[], UKL_ROOT=root, UKL_TESTS=tests)
    for name, marks in (("test", "not long"), ("check-long", "long")):
        action = scons.Action(_pytest, cmdstr=None)
        env.AlwaysBuild(env.Alias(name, [], action, UKL_MARKS=marks))


def _pytest(target: Any, source: Any, env: Any) -> int:
    argv = ["-m", "pytest", "-m", env["UKL_MARKS"], *env["UKL_TESTS"]]
    status = _attach(env["UKL_ROOT"], argv)
    if status:
        # pytest's summary shall be the last line; SCons would add one of its own to a failure.
        atexit.register(_exit, status)
    return 0


def _exit(status: int) -> None:
    """End with a status, after SCons has finished its own work."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
