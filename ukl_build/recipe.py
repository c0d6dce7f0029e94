# SPDX-License-Identifier: Apache-2.0
"""Recipes: what is built, from where, and what it needs to run.

``recipes/NAME/recipe.toml`` holds one; the files and patches that belong to it stand beside it.
Everything here is data and pure functions; reading a recipe is the only input.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from ukl_build import licence
from ukl_build.errors import UklError
from ukl_build.image import (
    MAX_ATTACHED,
    App,
    Disk,
    GuestPath,
    Init,
    Name,
    Permissions,
    Port,
    PortNumber,
    Protocol,
    Share,
    Smoke,
    SmokeRun,
    UserId,
)
from ukl_build.initconf import check_places
from ukl_build.model import Model, nearest, parse_toml

RECIPE_FILE = "recipe.toml"

CXX_SUFFIXES = (".cc", ".cpp", ".cxx", ".c++", ".C")
"""Names of C++ sources end so, as g++ knows them."""


def _folder(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not text:
        raise ValueError("must be a relative path that stays inside its folder")
    return text


def _file(text: str) -> str:
    if not PurePosixPath(text).parts:
        raise ValueError("must name something inside its folder")
    return _folder(text)


RelativePath = Annotated[str, AfterValidator(_file)]
RelativeFolder = Annotated[str, AfterValidator(_folder)]
"""May be "." itself."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
Licence = Annotated[str, AfterValidator(licence.checked)]
"""An SPDX expression."""


class Kind(StrEnum):
    """What a recipe describes."""

    APPLICATION = "application"
    LINUX = "linux"
    GLIBC = "glibc"


class DebianPlace(Model):
    """A file inside a Debian binary package; apt's signed index vouches for it."""

    package: PackageName
    file: RelativePath
    """Path inside the package, without the leading slash."""
    tested: str
    """Version of the package that was tested last; another one is a warning."""


class UpstreamPlace(Model):
    """A file at a URL; disabled without a digest that somebody computed from the real file."""

    url: str = Field(pattern=r"^(https|file)://")
    version: str
    """Replaces ``{version}`` in the URL."""
    sha256: Sha256 | None = None

    @property
    def resolved_url(self) -> str:
        """The URL with the version filled in."""
        return self.url.replace("{version}", self.version)


class SourcesRecipe(Model):
    """Sources from elsewhere: the kernel's, the C library's.

    ``files/`` and ``patches/`` beside the recipe are applied to them.
    """

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal[Kind.LINUX, Kind.GLIBC]
    name: Name
    summary: str
    licence: Licence
    series: str = Field(pattern=r"^\d+\.\d+$")
    """Accepted series: the version ``series`` and every ``series.y``."""
    debian: DebianPlace
    upstream: UpstreamPlace | None = None

    @property
    def accepted(self) -> str:
        """The accepted versions, for people."""
        return f"{self.series}.y" if self.kind is Kind.LINUX else self.series


class Source(Model):
    """Where an application's sources are from: a folder of this project, or Debian."""

    folder: RelativeFolder | None = None
    """Relative to the project's root; in a recipe of somebody's own, to the recipe's folder."""
    debian: PackageName | None = None
    """Debian source package; its patches are applied."""
    tested: str | None = None
    """Version of the package that was tested last; another one is a warning."""

    @model_validator(mode="after")
    def _is_from_one_place(self) -> Source:
        if (self.folder is None) == (self.debian is None):
            raise ValueError("names either a folder or a Debian source package")
        if self.debian is not None and self.tested is None:
            raise ValueError("tested is missing, the version of the package that was tested last")
        if self.folder is not None and self.tested is not None:
            raise ValueError("tested is the version of a package, which a folder does not have")
        return self


class PlainBuild(Model):
    """C, C++ and assembler files, each compiled by itself with the UKL flags and the ones here."""

    system: Literal["plain"]
    sources: tuple[RelativePath, ...] = Field(min_length=1)
    """Relative to the folder, or to the package's tree."""
    cflags: tuple[str, ...] = ()
    """For C and for assembler files that are preprocessed (.S)."""
    cxxflags: tuple[str, ...] = ()
    """For C++."""
    libc: bool = True
    """Whether the C library is linked; without it the sources have an entry point of their own."""

    @property
    def cxx(self) -> bool:
        """Whether there is C++ among the sources; with the C library, libstdc++ is linked then."""
        return any(PurePosixPath(name).suffix in CXX_SUFFIXES for name in self.sources)


class NativeBuild(Model):
    """The project's own build, with the compiler's flags added; how it links is recorded."""

    system: Literal["make", "configure", "cmake"]
    """What is run: make; a script named configure, or CMake, and then make."""
    program: RelativePath
    """The program that is wanted, where the build links it; relative to the folder."""
    folder: RelativeFolder = "."
    """Where the build is started; relative to the sources."""
    configure: tuple[str, ...] = ()
    """Words for configure or CMake."""
    make: tuple[str, ...] = ()
    """Words for make: targets and variables."""

    @property
    def libc(self) -> bool:
        """Whether the C library is linked: always."""
        return True


class DebianArchives(Model):
    """Static archives of a Debian package, linked as they are, and its headers."""

    package: PackageName
    tested: str
    """Version of the package that was tested last; another one is a warning."""
    licence: Licence
    """Of what is taken; see the package's /usr/share/doc/PACKAGE/copyright."""
    archives: tuple[RelativePath, ...] = ()
    """Such as ``libz.a``, in the order of the link; below the package's folder of libraries."""
    headers: tuple[RelativePath, ...] = ()
    """Headers that must be there; the compiler finds all of the package, named or not."""

    @model_validator(mode="after")
    def _takes_something(self) -> DebianArchives:
        if not self.archives and not self.headers:
            raise ValueError("names neither archives nor headers, so nothing is taken of it")
        return self


class Stock(Model):
    """Debian's own build of the application, on Debian's own kernel: what others would run."""

    package: PackageName
    """Binary package; what it depends on comes with it."""
    tested: str
    """Version of the package that was tested last; another one is a warning."""
    program: GuestPath
    """Where the packages have the program."""
    files: tuple[GuestPath, ...] = ()
    """Files and folders of the packages that the guest has besides its libraries."""


class KconfigNeeds(Model):
    """Fragments of kconfig/ beyond those that every image has."""

    fragments: tuple[Name, ...] = ()


class Limit(Model):
    """A resource limit; ``None`` is no limit."""

    soft: int | None = Field(default=None, ge=0)
    hard: int | None = Field(default=None, ge=0)


class GuestFile(Model):
    """A file that the guest finds when it starts."""

    source: RelativePath
    """Beside the recipe."""
    path: GuestPath
    mode: Permissions = 0o644
    uid: UserId = 0
    gid: UserId = 0


class Guest(Model):
    """The virtual machine and the process in it."""

    memory_mib: int = Field(default=256, ge=32)
    cpus: int = Field(default=1, ge=1, le=64)
    init: Init = Init.RING3
    args: tuple[str, ...] = ()
    """Arguments after ``argv[0]``."""
    env: dict[str, str] = Field(default_factory=dict)
    cmdline: tuple[str, ...] = ()
    """Kernel parameters beyond those that every image has."""
    ports: tuple[Port, ...] = ()
    sysctl: dict[str, str] = Field(default_factory=dict)
    """Name with dots, such as ``net.core.somaxconn``, and value."""
    limits: dict[str, Limit] = Field(default_factory=dict)
    """Resource in lower case without ``RLIMIT_``, such as ``nofile``."""
    smoke: Smoke | None = None
    """For an application with a port."""
    smoke_runs: tuple[SmokeRun, ...] = ()
    """For one that ends by itself: one after the other, with the same disks and folders."""
    files: tuple[GuestFile, ...] = ()
    disks: tuple[Disk, ...] = ()
    shares: tuple[Share, ...] = ()
    """Folders of the host; ``ukl-run -v HOST:MOUNT`` says which, else it is one of the image."""

    @model_validator(mode="after")
    def _nothing_hides_another(self) -> Guest:
        attached: tuple[Disk | Share, ...] = (*self.disks, *self.shares)
        names = [one.name for one in attached]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two disks or shares have the name {name!r}")
        if len(attached) > MAX_ATTACHED:
            raise ValueError(f"more than {MAX_ATTACHED} disks and shares")
        check_places([one.mount for one in attached], [one.path for one in self.files])
        return self

    @model_validator(mode="after")
    def _is_tested_in_one_way(self) -> Guest:
        if self.smoke and self.smoke_runs:
            raise ValueError("has both smoke, which asks a port, and smoke_runs, which end")
        if self.smoke and Port(guest=self.smoke.port, proto=Protocol.TCP) not in self.ports:
            raise ValueError(f"smoke.port {self.smoke.port} is not among the TCP ports")
        return self


class Workload(Model):
    """A request that is made many times, to count what it takes."""

    name: str = Field(pattern=r"^[ -~]+$")
    connections: int = Field(default=1, ge=1, le=1024)
    """Each has one request under way at most."""
    requests: int = Field(default=2000, ge=1)
    """In each batch, of all connections."""
    setup: str = ""
    """Sent once before, UTF-8."""
    settled: str = ""
    """The answer to that."""
    send: str = Field(min_length=1)
    """The request, UTF-8."""
    expect: str = Field(min_length=1)
    """What each answer begins with, UTF-8; all of it, without ``until``."""
    until: str = ""
    """What it ends with, if it may be longer."""


class Bench(Model):
    """What is counted of an application; without workloads it sets the marks itself."""

    args: tuple[str, ...] | None = None
    """Arguments after ``argv[0]`` in place of the guest's: there is no disk, and no network but
    the loopback."""
    port: PortNumber | None = None
    """TCP port that is asked."""
    workloads: tuple[Workload, ...] = ()

    @model_validator(mode="after")
    def _workloads_have_a_port(self) -> Bench:
        if self.workloads and self.port is None:
            raise ValueError("port is missing: where the workloads are sent")
        return self


class AppRecipe(Model):
    """An application."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal[Kind.APPLICATION]
    name: Name
    summary: str
    licence: Licence
    source: Source
    build: PlainBuild | NativeBuild = Field(discriminator="system")
    debian: tuple[DebianArchives, ...] = ()
    """Packages that are linked, in the order of the link."""
    zero: dict[str, str] = Field(default_factory=dict)
    """Weak names that nothing defines and that may be 0 (patterns are allowed), and why."""
    stock: Stock | None = None
    """What it is compared with besides its twin, if Debian has it."""
    kconfig: KconfigNeeds = Field(default_factory=KconfigNeeds)
    guest: Guest = Field(default_factory=Guest)
    bench: Bench | None = None

    @model_validator(mode="after")
    def _packages_are_named_once(self) -> AppRecipe:
        names = [one.package for one in self.debian]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"debian: {name} is named twice")
        return self

    @property
    def app(self) -> App:
        """The process in the guest; ``argv[0]`` is its path, as a shell would have it."""
        path = App.model_fields["path"].default
        return App(path=path, argv=(path, *self.guest.args), env=self.guest.env)


class _Head(Model):
    """Just enough of a recipe to know which kind it is."""

    model_config = ConfigDict(extra="ignore")
    kind: Kind


Recipe = AppRecipe | SourcesRecipe


def load(folder: Path) -> Recipe:
    """Read the recipe of a folder.

    :raise UklError: ``recipe-invalid``, naming each key at fault.
    :raise OSError: if it cannot be read.
    """
    path = folder / RECIPE_FILE
    recipe: Recipe
    match parse_toml(_Head, path, code="recipe-invalid").kind:
        case Kind.APPLICATION:
            recipe = parse_toml(AppRecipe, path, code="recipe-invalid")
        case Kind.LINUX | Kind.GLIBC:
            recipe = parse_toml(SourcesRecipe, path, code="recipe-invalid")
    if recipe.name != folder.name:
        raise UklError(
            "recipe-invalid",
            f"{path}: the name is {recipe.name!r}, the folder's is {folder.name!r}",
            hint="give both the same name",
        )
    return recipe


def names(recipes: Path, kind: Kind) -> list[str]:
    """Return the sorted names of all recipes of one kind.

    :raise UklError: ``recipe-invalid``.
    """
    found = sorted(path.parent for path in recipes.glob(f"*/{RECIPE_FILE}"))
    return [
        folder.name
        for folder in found
        if parse_toml(_Head, folder / RECIPE_FILE, code="recipe-invalid").kind is kind
    ]


def load_app(recipes: Path, name: str) -> tuple[AppRecipe, Path]:
    """Read an application's recipe.

    :param name: of the application, or a folder with a recipe of somebody's own.
    :return: also the folder that the recipe is in.
    :raise UklError: ``app-unknown`` with the nearest name, or ``recipe-invalid``.
    """
    known = names(recipes, Kind.APPLICATION)
    folder = recipes / name if name in known else Path(name).resolve()
    if not (folder / RECIPE_FILE).is_file():
        raise UklError(
            "app-unknown",
            f"there is no application {name!r}{nearest(name, known)}",
            hint=f"choose one of: {', '.join(known)}; or a folder with a {RECIPE_FILE} in it",
        )
    recipe = load(folder)
    if not isinstance(recipe, AppRecipe):
        raise UklError(
            "app-unknown",
            f"{folder / RECIPE_FILE} describes no application, its kind is {recipe.kind.value!r}",
            hint=f"choose one of: {', '.join(known)}",
        )
    if folder.parent != recipes and recipe.name in known:
        raise UklError(
            "recipe-invalid",
            f"{folder / RECIPE_FILE}: {recipe.name!r} is the name of an application that is here"
            " already, and both would be built in one folder",
            hint="give it another name, and its folder as well",
        )
    return recipe, folder


def load_sources(recipes: Path, kind: Kind) -> SourcesRecipe:
    """Read the kernel's or the C library's recipe, whose folder is called like its kind.

    :raise UklError: ``recipe-invalid``.
    """
    recipe = load(recipes / kind.value)
    if not isinstance(recipe, SourcesRecipe) or recipe.kind is not kind:
        raise UklError(
            "recipe-invalid",
            f"{recipes / kind.value}: its kind is {recipe.kind.value!r}",
            hint=f'write kind = "{kind.value}"',
        )
    return recipe
