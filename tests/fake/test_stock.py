# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernel and package of an application, both faked: what the guest has of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.debs import LIBRARIES, deb
from tests.fake.test_debian import stages
from tests.project import APP_RECIPE, Project
from ukl_build import image
from ukl_build.image import Feature, Variant

RELEASE = "6.1.0-7-cloud-amd64"
LINKER = "lib64/ld-linux-x86-64.so.2"
PRIVATE = f"{LIBRARIES}/private"
STOCK = """\
[stock]
package = "hello-server"
tested = "1-1"
program = "/usr/bin/hello"
files = ["/var/lib/hello", "/usr/lib/hello/plug.so"]

[guest]
"""
CONFIG = "CONFIG_EXT4_FS=y\nCONFIG_VIRTIO_BLK=m\n# CONFIG_9P_FS is not set\n"
BUILT_IN = "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio.ko\n"
DEPENDS = {
    "virtio_ring": "",
    "virtio_pci": "virtio-ring,virtio",
    "virtio_console": "virtio_ring",
    "virtio-rng": "",
    "virtio_net": "failover",
    "failover": "",
    "virtio_blk": "",
    "pvpanic-pci": "",
    "button": "",
    "unused": "",
}
"""Modules of the kernel's package, and what they say they need."""


def compiled(folder: Path, name: str, code: str, *flags: str) -> bytes:
    """Return what gcc makes of some code without a C library."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["gcc", "-nostdlib", "-xc", "-", "-xnone", "-o", name, *flags]
    subprocess.run(argv, input=code, text=True, cwd=folder, check=True)
    return (folder / name).read_bytes()


def shared(folder: Path, name: str, code: str, *flags: str) -> bytes:
    """Return a shared library."""
    words = ("-shared", "-fPIC", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", *flags)
    return compiled(folder, name, code, *words)


@dataclass
class World:
    """A project whose recipe names a package, and the folder that has the packages."""

    project: Project
    debs: Path

    def kernel(self, release: str = RELEASE, depends: Mapping[str, str] = DEPENDS) -> None:
        """Put a kernel into the folder."""
        place = f"lib/modules/{release}"
        content: dict[str, bytes | str | Path] = {
            f"boot/vmlinuz-{release}": "the kernel",
            f"boot/config-{release}": CONFIG,
            f"{place}/modules.builtin": BUILT_IN,
        }
        for name, needs in depends.items():
            info = f'char info[] __attribute__((section(".modinfo"))) = "depends={needs}";'
            made = compiled(self.debs / "made", f"{name}.ko", info, "-c")
            content[f"{place}/kernel/drivers/{name}.ko"] = made
        deb(self.debs, f"linux-image-{release}", "6.1-1", content)

    def packages(self) -> None:
        """Put the application, its libraries and the dynamic linker into the folder."""
        made = self.debs / "made"
        deep = shared(made, "libdeep.so.1", "int deep(void) { return 42; }")
        where = f"-Wl,--enable-new-dtags,-rpath,/{PRIVATE}"
        answer = shared(
            made,
            "libanswer.so.2",
            "int deep(void); int answer(void) { return deep(); }",
            "libdeep.so.1",
            where,
        )
        program = compiled(
            made,
            "hello",
            "int answer(void); void _start(void) { answer(); }",
            *("libanswer.so.2", "-Wl,-rpath-link,."),
        )
        only = shared(made, "libonly.so.1", "int only(void) { return 1; }")
        plug = shared(made, "plug.so", "int plug(void) { return 0; }", "libonly.so.1")
        server: dict[str, bytes | str | Path] = {
            "usr/bin/hello": Path("../share/hello/really"),
            "usr/lib/hello/plug.so": plug,
            "usr/share/doc/hello": "not wanted",
            "var/lib/hello/empty/state": "state",
        }
        deb(self.debs, "hello-server", "1-1", server)
        # The program is in another package than the name that leads to it, as redis-server's is.
        deb(self.debs, "hello-tools", "1-1", {"usr/share/hello/really": program})
        libraries: dict[str, bytes | str | Path] = {
            f"{LIBRARIES}/libanswer.so.2": Path("libanswer.so.2.0"),
            f"{LIBRARIES}/libanswer.so.2.0": answer,
            f"{PRIVATE}/libdeep.so.1": deep,
            "lib/x86_64-linux-gnu/libonly.so.1": only,
        }
        deb(self.debs, "libanswer2", "1-1", libraries)
        libc: dict[str, bytes | str | Path] = {
            LINKER: Path("/lib/x86_64-linux-gnu/linker"),
            "lib/x86_64-linux-gnu/linker": "ld.so",
        }
        deb(self.debs, "libc6", "1-1", libc)

    def remove(self, name: str) -> None:
        """Take a package out of the folder."""
        (path,) = self.debs.glob(f"{name}_*.deb")
        path.unlink()
        shutil.rmtree(self.debs / "root" / path.name.removesuffix("_amd64.deb"))

    def build(self, *words: str, status: int = 0) -> str:
        """Build with these packages."""
        return self.project.build(f"debs={self.debs}", *words, status=status)

    @property
    def out(self) -> Path:
        """Outputs of the stock image."""
        return self.project.out / "stock"

    def guest(self) -> dict[str, bytes]:
        """Return the files of the guest's root by their paths; a folder has no bytes."""
        data = (self.out / "initramfs.cpio").read_bytes()
        found: dict[str, bytes] = {}
        at = 0
        while True:
            mode, size, length = (
                int(data[at + start : at + start + 8], 16) for start in (14, 54, 94)
            )
            name = data[at + 110 : at + 110 + length - 1].decode()
            at += (110 + length + 3) & ~3
            if name == "TRAILER!!!":
                return found
            found[f"/{name}"] = data[at : at + size] if mode & 0o100000 else b""
            at += (size + 3) & ~3


@pytest.fixture
def world(project: Project) -> World:
    path = project.root / "recipes" / "hello" / "recipe.toml"
    path.write_text(APP_RECIPE.replace("[guest]\n", STOCK))
    made = World(project, project.root / "debs")
    made.kernel()
    made.packages()
    return made


def test_the_guest_has_what_the_program_needs_and_no_more(world: World) -> None:
    said = world.build("stock")
    assert "start it: tools/ukl-run --qemu build/hello/stock" in said
    assert stages(said) == ["packages", "stock"]
    guest, made = world.guest(), world.debs / "made"
    assert guest["/usr/bin/hello"] == (made / "hello").read_bytes()
    assert guest[f"/{LINKER}"] == b"ld.so"
    for place, name in (
        (f"/{LIBRARIES}/libanswer.so.2", "libanswer.so.2"),
        (f"/{PRIVATE}/libdeep.so.1", "libdeep.so.1"),
        ("/lib/x86_64-linux-gnu/libonly.so.1", "libonly.so.1"),
        ("/usr/lib/hello/plug.so", "plug.so"),
    ):
        assert guest[place] == (made / name).read_bytes()
    assert guest["/var/lib/hello/empty/state"] == b"state"
    own = {path for path in guest if path.startswith("/usr/") and guest[path]}
    assert len(own) == 4


def test_modules_are_loaded_each_behind_those_that_it_needs(world: World) -> None:
    world.build("stock")
    guest = world.guest()
    text = guest["/etc/ukl/init.conf"].decode()
    place = f"/lib/modules/{RELEASE}/kernel/drivers/"
    lines = [line.removeprefix("module=") for line in text.splitlines() if "module=" in line]
    names = [line.removeprefix(place).removesuffix(".ko") for line in lines]
    assert sorted(names) == sorted(DEPENDS.keys() - {"unused"})
    for first, then in (
        ("virtio_ring", "virtio_pci"),
        ("virtio_pci", "virtio_console"),
        ("failover", "virtio_net"),
    ):
        assert names.index(first) < names.index(then)
    assert {path for path in guest if path.endswith(".ko")} == set(lines)
    assert text.index("module=") < text.index("rlimit=" if "rlimit=" in text else "ip=")


def test_the_image_is_of_debians_kernel(world: World) -> None:
    world.build("stock")
    found = image.load(world.out / "image.json")
    assert (found.variant, found.label) == (Variant.STOCK, "hello.stock")
    assert (found.app.path, found.app.argv) == ("/usr/bin/hello", ("/usr/bin/hello",))
    assert found.initrd is not None
    assert (world.out / found.initrd).is_file()
    assert (world.out / found.kernel).read_bytes() == b"the kernel"
    assert found.features == (Feature.EXT4, Feature.VIRTIO_BLK)
    assert not world.project.linux.exists()


def test_it_is_fetched_only_if_it_is_asked_for_and_once(world: World) -> None:
    assert "stock" not in stages(world.build("build/hello/UKL.a"))
    assert not world.out.exists()
    world.build("stock")
    assert stages(world.build("stock")) == []
    # Another content at the same place is seen.
    world.remove("hello-tools")
    other = compiled(world.debs / "made", "other", "void _start(void) { }", "-pie")
    deb(world.debs, "hello-tools", "1-2", {"usr/share/hello/really": other})
    assert stages(world.build("stock")) == ["packages", "stock"]
    assert world.guest()["/usr/bin/hello"] == other
    # An emptied cache is filled again.
    shutil.rmtree(world.project.cache / "ukl-build" / "packages")
    assert "packages" in stages(world.build("stock"))
    world.build("-c", "stock")
    assert not world.out.exists()
    assert any((world.project.cache / "ukl-build" / "packages").rglob("hello"))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("hello-server", "missing: hello-server_*.deb (1-1 was tested last)"),
        (f"linux-image-{RELEASE}", "missing: linux-image-[0-9]*-cloud-amd64_*.deb"),
        ("hello-tools", "none of the packages has /usr/bin/hello, which is to run"),
        ("libanswer2", "none of the packages has libonly.so.1, a library that plug.so needs"),
        ("libc6", f"none of the packages has /{LINKER}, the dynamic linker"),
    ],
)
def test_what_is_missing_is_named(world: World, name: str, what: str) -> None:
    world.remove(name)
    said = world.build("stock", status=2)
    assert "error[source-missing]" in said
    assert what in said
    assert not (world.out / "image.json").exists()


def test_a_second_kernel_is_not_chosen_from(world: World) -> None:
    world.kernel("6.1.0-8-cloud-amd64")
    said = world.build("stock", status=2)
    assert "one of several kernels: linux-image-6.1.0-8-cloud-amd64" in said


@pytest.mark.parametrize("name", ["virtio_blk", "failover"])
def test_a_kernel_without_a_driver_is_refused(world: World, name: str) -> None:
    world.remove(f"linux-image-{RELEASE}")
    world.kernel(depends={one: needs for one, needs in DEPENDS.items() if one != name})
    said = world.build("stock", status=2)
    assert f"the kernel {RELEASE} has no driver {name}, " in said


def test_a_kernel_of_another_make_is_refused(world: World) -> None:
    world.remove(f"linux-image-{RELEASE}")
    deb(world.debs, f"linux-image-{RELEASE}", "6.1-1", {f"boot/vmlinuz-{RELEASE}": ""})
    said = world.build("stock", status=2)
    assert f"has /lib/modules/{RELEASE}/modules.builtin, the list of its drivers" in said


@pytest.mark.parametrize("kind", ["script", "object"])
def test_what_is_no_program_is_refused(world: World, kind: str) -> None:
    world.remove("hello-tools")
    code = "void _start(void) { }"
    content = b"#!/bin/sh\n" if kind == "script" else compiled(world.debs, "a.o", code, "-c")
    deb(world.debs, "hello-tools", "1-1", {"usr/share/hello/really": content})
    said = world.build("stock", status=2)
    assert "error[elf-format]" in said
    assert "neither a program nor a shared library of x86-64" in said


def edit(world: World, text: str) -> None:
    path = world.project.root / "recipes" / "hello" / "recipe.toml"
    path.write_text(path.read_text().replace("[guest]\n", f"[guest]\n{text}\n"))


def test_a_share_that_debians_kernel_cannot_mount_is_refused(world: World) -> None:
    edit(world, 'shares = [{ name = "www", mount = "/srv/www" }]')
    (world.project.root / "kconfig" / "9p.config").write_text("# nothing\n")
    said = world.build("stock", status=2)
    assert "error[recipe-invalid]: the kernel of hello.stock has no 9p" in said


def test_drivers_need_our_init(world: World) -> None:
    said = world.build("stock", "init=direct", status=2)
    assert "error[recipe-invalid]: the stock of hello needs our init" in said
    assert not world.out.exists()


def test_a_recipe_without_it_says_what_is_missing(project: Project) -> None:
    said = project.build("stock", status=2)
    assert "error[recipe-invalid]: the recipe of hello does not say which package" in said
    assert "hint: give it a [stock]" in said
