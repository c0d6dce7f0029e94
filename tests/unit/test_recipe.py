# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.project import APP_RECIPE, LINUX_RECIPE, ROOT
from ukl_build import image, plan, recipe, scons_tool
from ukl_build.errors import UklError
from ukl_build.image import Feature
from ukl_build.stages.image import describe
from ukl_build.stages.userspace import ExtraFile


def write(folder: Path, text: str, name: str = "hello") -> Path:
    place = folder / name / "recipe.toml"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    return place.parent


DEBIAN = '[[debian]]\npackage = "libx-dev"\ntested = "1"\nlicence = "Zlib"\n'


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*/recipe.toml")))
def test_every_recipe_of_the_project_is_valid(path: Path) -> None:
    assert recipe.load(path.parent).name == path.parent.name


@pytest.mark.parametrize("name", recipe.names(ROOT / "recipes", recipe.Kind.APPLICATION))
def test_every_application_names_sources_and_fragments_that_exist(name: str) -> None:
    found, _ = recipe.load_app(ROOT / "recipes", name)
    if found.source.folder is not None and isinstance(found.build, recipe.PlainBuild):
        for source in found.build.sources:
            assert (ROOT / found.source.folder / source).is_file()
    for fragment in plan.fragments(found):
        assert (ROOT / "kconfig" / f"{fragment}.config").is_file()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cflags =", "clfags =", "unknown key 'build.clfags'; did you mean 'cflags'?"),
        ("ports = [{ guest", "ports = [{ gest", "unknown key 'guest.ports.0.gest'; did you mean"),
        ("[guest]", "[gest]", "unknown key 'gest'; did you mean 'guest'?"),
        ("guest = 5555", 'guest = "5555"', "guest.ports.0.guest: Input should be a valid integer"),
        ("guest = 5555", "guest = 65536", "less than or equal to 65535"),
        ("schema = 1", "schema = 2", "schema"),
        ('"samples/hello"', '"../hello"', "stays inside its folder"),
        ('"samples/hello"', '"/hello"', "stays inside its folder"),
        ('folder = "samples/hello"', "", "source: Value error, names either a folder or a Debian"),
        (
            '"samples/hello"',
            '"x"\ndebian = "x1"\ntested = "1"',
            "names either a folder or a Debian",
        ),
        ('folder = "samples/hello"', 'debian = "x1"', "source: Value error, tested is missing"),
        ('"samples/hello"', '"x"\ntested = "1"', "source: Value error, tested is the version of a"),
        ('folder = "samples/hello"', 'debian = "X"\ntested = "1"', "source.debian: String should"),
        ('folder = "samples/hello"', 'debain = "x1"', "'source.debain'; did you mean 'debian'?"),
        ("schema = 1", "schema =", "not TOML"),
        ('system = "plain"', 'system = "meson"', "build.system"),
        ('kind = "application"', 'kind = "app"', "kind"),
        ("[guest]", "[guest]\nsmoke = { port = 1, send = '', expect = 'x' }", "smoke.port 1"),
        (
            "[guest]",
            "[guest]\nsmoke_runs = [{}]\nsmoke = { port = 5555, send = '', expect = 'x' }",
            "guest: Value error, has both smoke, which asks a port, and smoke_runs, which end",
        ),
        ("[guest]", "[guest]\nsmoke_runs = [{ status = 256 }]", "guest.smoke_runs.0.status"),
        ("[guest]", "[guest]\nsmoke_runs = [{ expects = [] }]", "did you mean 'expect'?"),
        ("[guest]", "[guest]\nsmoke_runs = [{ expect = 'x' }]", "guest.smoke_runs.0.expect"),
        ("[guest]", "[guest]\nmemory_mib = 8", "guest.memory_mib"),
        ("[guest]", f"{DEBIAN}[guest]", "debian.0: Value error, names neither archives nor"),
        ("[guest]", f"{DEBIAN}archives = ['x.a']\n" * 2 + "[guest]", "libx-dev is named twice"),
        ("[guest]", f"{DEBIAN}archives = ['../x.a']\n[guest]", "debian.0.archives.0"),
        ("[guest]", f"{DEBIAN}archive = ['x.a']\n[guest]", "did you mean 'archives'?"),
    ],
)
def test_a_mistake_is_refused_by_file_and_key(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in APP_RECIPE
    folder = write(tmp_path, APP_RECIPE.replace(old, new, 1))
    with pytest.raises(UklError) as caught:
        recipe.load(folder)
    assert caught.value.code == "recipe-invalid"
    assert str(folder / "recipe.toml") in str(caught.value)
    assert expected in str(caught.value)


def test_every_mistake_of_a_recipe_is_shown_at_once(tmp_path: Path) -> None:
    text = APP_RECIPE.replace("cflags =", "clfags =").replace("guest = 5555", "guest = 0")
    with pytest.raises(UklError) as caught:
        recipe.load(write(tmp_path, text))
    assert "clfags" in str(caught.value)
    assert "guest.ports.0.guest" in str(caught.value)


def test_a_recipe_has_the_name_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UklError, match=r"the name is 'hello', the folder's is 'other'"):
        recipe.load(write(tmp_path, APP_RECIPE, "other"))


def test_an_unknown_application_is_refused_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, APP_RECIPE)
    write(tmp_path, LINUX_RECIPE, "linux")
    with pytest.raises(UklError) as caught:
        recipe.load_app(tmp_path, "helo")
    assert caught.value.code == "app-unknown"
    assert "did you mean 'hello'?" in caught.value.message
    with pytest.raises(UklError, match="no application 'linux'"):
        recipe.load_app(tmp_path, "linux")


def test_a_folder_with_a_recipe_may_be_anywhere_but_its_name_is_its_own(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    write(recipes, APP_RECIPE)
    text = APP_RECIPE.replace('name = "hello"', 'name = "mine"').replace("samples/hello", ".")
    folder = write(tmp_path, text, "mine")
    found, place = recipe.load_app(recipes, str(folder))
    assert (found.name, found.source.folder, place) == ("mine", ".", folder)
    assert recipe.load_app(recipes, "hello")[1] == recipes / "hello"
    assert recipe.load_app(recipes, str(recipes / "hello"))[1] == recipes / "hello"
    with pytest.raises(UklError, match="'hello' is the name of an application that is here"):
        recipe.load_app(recipes, str(write(tmp_path / "mine", APP_RECIPE)))
    with pytest.raises(UklError, match="there is no application"):
        recipe.load_app(recipes, str(tmp_path))


def load(tmp_path: Path, guest: str = "") -> recipe.AppRecipe:
    found = recipe.load(write(tmp_path, APP_RECIPE.replace("[guest]", f"[guest]\n{guest}")))
    assert isinstance(found, recipe.AppRecipe)
    return found


def test_fragments_are_merged_in_order_and_once(tmp_path: Path) -> None:
    names = plan.fragments(load(tmp_path), ("test", "net"))
    assert names[: len(plan.FRAGMENTS)] == plan.FRAGMENTS
    assert names[-1] == "test"
    assert len(set(names)) == len(names)


def test_without_our_init_the_kernels_parameters_say_what_they_can(tmp_path: Path) -> None:
    guest = 'init = "direct"\nargs = ["-v", "two words"]\nenv = { A = "b c" }\n'
    guest += 'sysctl = { "net.core.somaxconn" = "9" }\ncmdline = ["quiet"]'
    words = plan.cmdline(load(tmp_path, guest))
    assert words[-3:] == ("--", "-v", '"two words"')
    assert {"rdinit=/UKL", "ip=dhcp", "sysctl.net.core.somaxconn=9", '"A=b c"', "quiet"} < set(
        words
    )


def test_an_argument_that_kernel_parameters_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UklError) as caught:
        plan.cmdline(load(tmp_path / "quotes", "init = 'direct'\nargs = ['say \"hi\"']"))
    assert caught.value.code == "recipe-invalid"
    with pytest.raises(UklError) as caught:
        runs = "init = 'direct'\nsmoke_runs = [{ args = ['say \"hi\"'] }]"
        plan.cmdline(load(tmp_path / "runs", runs))
    assert caught.value.code == "recipe-invalid"
    with pytest.raises(UklError, match="at most 31"):
        plan.cmdline(load(tmp_path / "many", f"init = 'direct'\nargs = {['x'] * 32}"))


@pytest.mark.parametrize(("init", "warned"), [("direct", True), ("ring3", False)])
def test_limits_that_nobody_sets_are_pointed_out(tmp_path: Path, init: str, warned: bool) -> None:
    guest = f"init = '{init}'\nlimits = {{ nofile = {{ soft = 1, hard = 1 }} }}"
    assert ("nofile" in "".join(plan.lacking(load(tmp_path, guest)))) is warned


def test_our_init_is_told_arguments_environment_and_limits(tmp_path: Path) -> None:
    guest = 'args = ["-v"]\nenv = { A = "b" }\nlimits = { nofile = { soft = 1, hard = 2 } }'
    conf = plan.init_conf(load(tmp_path, guest))
    assert conf.argv == ("/UKL", "-v")
    assert conf.env["A"] == "b"
    assert "PATH" in conf.env
    assert conf.limits == {"nofile": (1, 2)}


def test_an_image_description_survives_a_round_trip(tmp_path: Path) -> None:
    before = plan.image(load(tmp_path, ATTACHED), "hello.bzImage", {"EXT4_FS": "y"}, {})
    assert before.disks
    assert before.features == (Feature.EXT4,)
    image.store(before, tmp_path / "image.json")
    assert image.load(tmp_path / "image.json") == before
    assert '"schema": 1' in (tmp_path / "image.json").read_text()


ATTACHED = """
shares = [{ name = "www", mount = "/srv/www", read_only = true }]
disks = [
  { name = "deep", size_mib = 32, mount = "/data/deep" },
  { name = "data", size_mib = 64, mount = "/data", uid = 7, gid = 8, mode = 0o750 },
]
"""


def test_disks_and_shares_are_mounted_with_what_is_inside_of_others_last(tmp_path: Path) -> None:
    found = plan.init_conf(load(tmp_path, ATTACHED)).mounts
    assert [(one.source, one.target, one.type) for one in found] == [
        ("/dev/vdb", "/data", "ext4"),
        ("/dev/vda", "/data/deep", "ext4"),
        ("share0", "/srv/www", "9p"),
    ]
    assert found[2].options.split(",")[0] == "ro"


def test_disks_and_shares_bring_their_fragments(tmp_path: Path) -> None:
    names = plan.fragments(load(tmp_path / "both", ATTACHED), ("ext4",))
    assert names.index("net") < names.index("ext4") < names.index("ukl")
    assert names.count("ext4") == names.count("virtio-blk") == names.count("9p") == 1
    assert not {"ext4", "virtio-blk", "9p"} & set(plan.fragments(load(tmp_path / "none")))


def test_a_feature_takes_all_of_its_options() -> None:
    config = {"9P_FS": "y", "EXT4_FS": "m", "VIRTIO_BLK": "y"}
    assert plan.features(config) == (Feature.VIRTIO_BLK,)
    assert plan.features({**config, "NET_9P_VIRTIO": "y"})[1] is Feature.NINE_P


def test_what_the_kernel_has_is_read_from_its_configuration(tmp_path: Path) -> None:
    config, out = tmp_path / "config", tmp_path / "image.json"
    config.write_text("CONFIG_9P_FS=y\nCONFIG_NET_9P_VIRTIO=y\n# CONFIG_EXT4_FS is not set\n")
    parts = {"linux": "GPL-2.0-only", "app": "MIT"}
    describe(load(tmp_path), Path("/a/kernel"), config, out, parts)
    described = image.load(out)
    assert described.features == (Feature.NINE_P,)
    assert (described.licences, described.redistributable) == (parts, True)


@pytest.mark.parametrize("attached", ATTACHED.strip().replace("\n", "").split("disks"))
def test_a_disk_that_nobody_would_mount_is_refused(tmp_path: Path, attached: str) -> None:
    text = attached if attached.startswith("shares") else f"disks{attached}"
    with pytest.raises(UklError, match="without our init nobody mounts them"):
        plan.cmdline(load(tmp_path, f"init = 'direct'\n{text}"))


FILE = '{ source = "a.conf", path = "/etc/a.conf" }'


def disks(*changed: str) -> str:
    """Return disks; each has what the words say in place of NAME=VALUE of the same name."""
    found = []
    for words in changed:
        keys = {"name": "'a'", "size_mib": "64", "mount": "'/a'"}
        for word in words.split(","):
            key, _, value = word.partition("=")
            keys[key] = value
        found.append("{" + ", ".join(f"{key} = {value}" for key, value in keys.items()) + "}")
    return f"disks = [{', '.join(found)}]\n"


@pytest.mark.parametrize(
    ("guest", "expected"),
    [
        (f"files = [{FILE}, {FILE}]", "two things are at /etc/a.conf"),
        (disks("mount='/a'", "mount='/b'"), "have the name 'a'"),
        (disks("name='a'", "name='b'"), "two things are at /a"),
        (disks("mount='/etc'") + f"files = [{FILE}]", "something is mounted on /etc"),
        (f"files = [{FILE.replace('/etc', '/tmp')}]", "something is mounted on /tmp"),
        (f"files = [{FILE.replace('/etc', '/dev')}]", "/dev is the kernel's own"),
        (f"files = [{FILE.replace('a.conf', '../a', 1)}]", "stays inside its folder"),
        (disks("mount='/proc/x'"), "/proc is the kernel's own"),
        (disks("mount='/etc/a.conf/x'") + f"files = [{FILE}]", "/etc/a.conf is a file"),
        (disks("mount='/'"), "not an absolute path"),
        (disks("mount='/a/'"), "in its shortest form"),
        (disks("mount='/a b'"), "a mount point has no blanks"),
        (disks("size_mib=8"), "greater than or equal to 16"),
        (disks("fs='xfs'"), "Input should be 'ext4'"),
        (disks("mont='/a'"), "did you mean 'mount'?"),
        (disks(*(f"name='a{n}',mount='/a{n}'" for n in range(17))), "more than 16 disks"),
    ],
)
def test_what_hides_or_excludes_each_other_is_refused(
    tmp_path: Path, guest: str, expected: str
) -> None:
    with pytest.raises(UklError) as caught:
        load(tmp_path, guest)
    assert caught.value.code == "recipe-invalid"
    assert expected in str(caught.value)


def test_a_file_that_is_not_beside_the_recipe_is_named(tmp_path: Path) -> None:
    files = load(tmp_path, f"files = [{FILE}]").guest.files
    folder = tmp_path / "hello"
    with pytest.raises(UklError, match=r"puts a.conf at /etc/a.conf in the guest, and there is no"):
        scons_tool.guest_files(folder, files)
    (folder / "a.conf").write_text("x")
    assert scons_tool.guest_files(folder, files) == (
        ExtraFile(folder / "a.conf", "/etc/a.conf", 0o644),
    )


def test_a_damaged_image_description_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.json"
    path.write_text('{"schema": 1, "kernle": "x"}')
    with pytest.raises(UklError) as caught:
        image.load(path)
    assert caught.value.code == "image-invalid"
    assert "did you mean 'kernel'?" in str(caught.value)
    path.write_bytes(b"\xff")
    with pytest.raises(UklError) as caught:
        image.load(path)
    assert caught.value.code == "image-invalid"
