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
    Protocol,
    Share,
    Smoke,
    UserId,
)
from ukl_build.initconf import check_places
from ukl_build.model import Model, nearest, parse_toml

RECIPE_FILE = "recipe.toml"

CXX_SUFFIXES = (".cc", ".cpp", ".cxx", ".c++", ".C")
"""Names of C++ sources end so, as g++ knows them."""


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError("must be a relative path that stays inside its folder")
    return text


RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]


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
    licence: str
    """SPDX expression."""
    series: str = Field(pattern=r"^\d+\.\d+$")
    """Accepted series: the version ``series`` and every ``series.y``."""
    debian: DebianPlace
    upstream: UpstreamPlace | None = None

    @property
    def accepted(self) -> str:
        """The accepted versions, for people."""
        return f"{self.series}.y" if self.kind is Kind.LINUX else self.series


class FolderSource(Model):
    """Sources that are part of this project."""

    folder: RelativePath
    """Relative to the project's root."""


class PlainBuild(Model):
    """C, C++ and assembler files, each compiled by itself with the UKL flags and the ones here."""

    system: Literal["plain"]
    sources: tuple[RelativePath, ...] = Field(min_length=1)
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


class DebianArchives(Model):
    """Static archives of a Debian package, linked as they are, and its headers."""

    package: PackageName
    tested: str
    """Version of the package that was tested last; another one is a warning."""
    archives: tuple[RelativePath, ...] = ()
    """Such as ``libz.a``, in the order of the link; below the package's folder of libraries."""
    headers: tuple[RelativePath, ...] = ()
    """Headers that must be there; the compiler finds all of the package, named or not."""

    @model_validator(mode="after")
    def _takes_something(self) -> DebianArchives:
        if not self.archives and not self.headers:
            raise ValueError("names neither archives nor headers, so nothing is taken of it")
        return self


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
    def _smoke_port_is_open(self) -> Guest:
        if self.smoke and Port(guest=self.smoke.port, proto=Protocol.TCP) not in self.ports:
            raise ValueError(f"smoke.port {self.smoke.port} is not among the TCP ports")
        return self


class AppRecipe(Model):
    """An application."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal[Kind.APPLICATION]
    name: Name
    summary: str
    licence: str
    """SPDX expression."""
    source: FolderSource
    build: PlainBuild
    debian: tuple[DebianArchives, ...] = ()
    """Packages that are linked, in the order of the link."""
    zero: dict[str, str] = Field(default_factory=dict)
    """Weak names that nothing defines and that may be 0 (patterns are allowed), and why."""
    kconfig: KconfigNeeds = Field(default_factory=KconfigNeeds)
    guest: Guest = Field(default_factory=Guest)

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


def load_app(recipes: Path, name: str) -> AppRecipe:
    """Read an application's recipe.

    :raise UklError: ``app-unknown`` with the nearest name, or ``recipe-invalid``.
    """
    known = names(recipes, Kind.APPLICATION)
    if name not in known:
        raise UklError(
            "app-unknown",
            f"there is no application {name!r}{nearest(name, known)}",
            hint=f"choose one of: {', '.join(known)}",
        )
    recipe = load(recipes / name)
    assert isinstance(recipe, AppRecipe)  # names() looked at its kind
    return recipe


def load_sources(recipes: Path, kind: Kind) -> SourcesRecipe:
    """Read the kernel's or the C library's recipe, whose folder is called like its kind.

    :raise UklError: ``recipe-invalid``.
    """
    recipe = load(recipes / kind.value)
    if not isinstance(recipe, SourcesRecipe) or recipe.kind is not kind:
        raise UklError(
            "recipe-invalid",
            f"{recipes / kind.value}: its kind is {recipe.kind.value!r}",
            hint=f'the recipe named {kind.value} has kind = "{kind.value}"',
        )
    return recipe
