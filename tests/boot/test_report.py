# SPDX-License-Identifier: Apache-2.0
"""The page of a real image, in a real browser: it is right, readable, and does what it offers."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests import browser
from ukl_build import kbuild, ukl
from ukl_build.dotconfig import read_settings
from ukl_build.image import IMAGE_FILE, load
from ukl_build.measure import timeline
from ukl_build.report import facts
from ukl_build.report.facts import Report
from ukl_build.stages import linux

pytestmark = pytest.mark.boot

NARROW, WIDE = 500, 1200
"""Widths of windows, pixels; chromium's are not narrower."""

READABLE = 4.5
"""Least contrast of text with what is behind it (WCAG 2.2, 1.4.3)."""

CONTRAST = """
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgb(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const poor = {};
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
  if (!own || !element.offsetParent || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
  const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < LEAST) poor[`${element.tagName}.${element.className}`] = ratio;
}
return poor;
""".replace("LEAST", str(READABLE))


@pytest.fixture(scope="module")
def made(redis_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the page of redis, and beside it all that is on it and the list of its parts."""
    folder = tmp_path_factory.mktemp("report")
    for old in ("timeline.json", "size.json"):
        (redis_image / old).unlink(missing_ok=True)
    words = ["--out", "page.html", "--json", "all.json", "--sbom", "parts.json"]
    named = [str(folder / word) if "." in word else word for word in words]
    assert ukl.main(["report", str(redis_image), *named]) == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def known(made: Path) -> Report:
    """Return what the page is made of."""
    return Report.model_validate_json((made.parent / "all.json").read_bytes())


@pytest.fixture
def see(made: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return what looks at the page."""
    return lambda script, **how: browser.look(made, script, tmp_path, **how)


# --- What is said -------------------------------------------------------------------------------


def test_the_start_goes_from_milestone_to_milestone(known: Report) -> None:
    assert known.timeline is not None
    names = [one.name for one in known.timeline.milestones]
    assert names == [
        *("firmware", "decompressor", "kernel", "start_kernel", "kernel_init", "initcalls"),
        *("init", "exec", "entry", "main", "listen", "answer"),
    ]
    for one, following in pairwise(known.timeline.milestones):
        assert one.instructions < following.instructions, one.name
        assert one.seconds <= following.seconds, one.name
    first = {one.name: one.instructions for one in known.timeline.milestones}
    initcalls = {one.name: one for one in known.timeline.initcalls}
    assert {"acpi_init", "inet_init", "virtio_net_driver_init"} <= initcalls.keys()
    took = sum(one.instructions for one in initcalls.values() if one.level[0].isdigit())
    # All but the last, whose end nobody knows.
    assert 0.5 < took / (first["init"] - first["initcalls"]) <= 1
    assert any("NX" in line for line in known.timeline.said)


def test_it_is_counted_alike_each_time(built: Path) -> None:
    """Without a disk nothing of the host's gets in."""
    kept = facts.gather(built, lambda _: None).timeline
    assert kept is not None
    runs = [kept, timeline.measure(load(built / IMAGE_FILE), built, lambda _: None)]
    counts = [[(one.name, one.instructions) for one in run.milestones] for run in runs]
    assert counts[0] == counts[1] and counts[0][-1][0] == "answer"
    calls = [[(one.name, one.instructions) for one in run.initcalls] for run in runs]
    assert calls[0] == calls[1]


def test_nearly_all_objects_of_the_kernel_have_their_options(
    known: Report, redis_image: Path
) -> None:
    tree = linux.tree_of(redis_image / "linux")
    assert tree is not None
    config = read_settings((redis_image / "kconfig" / "config").read_text())
    options = kbuild.options(tree, config)
    objects = {part.file for part in known.parts if part.owner.startswith("Linux: ") and part.file}
    assert len(objects) > 1000
    # Its makefile computes this one's name.
    assert objects - options.objects.keys() <= {"arch/x86/entry/vdso/vdso-image-64.o"}
    of = {part.file: part.options for part in known.parts}
    assert of["fs/ext4/super.o"] == ("EXT4_FS",)
    assert of["net/ipv4/tcp.o"] == ("NET", "INET")
    assert of["fs/binfmt_ukl.o"] == ("UNIKERNEL_LINUX",)
    for part in known.parts:
        assert all(config.get(option) == "y" for option in part.options), part.file


def test_all_options_that_are_set_have_a_reason(known: Report, redis_image: Path) -> None:
    config = read_settings((redis_image / "kconfig" / "config").read_text())
    reasons = {one.name: one for one in known.options}
    assert {name for name, value in config.items() if value} <= reasons.keys()
    assert all(one.reason for one in known.options)
    assert reasons["JBD2"].reason == "selected by EXT4_FS"
    assert reasons["UNIKERNEL_LINUX"].reason == "the point of it all"
    assert {one.option for one in known.protections if one.on} >= {"RANDOMIZE_BASE", "VMAP_STACK"}
    assert "X86_KERNEL_IBT" in {one.option for one in known.protections if not one.on}


def test_parts_have_versions_licences_and_digests(made: Path, known: Report) -> None:
    parts = {one.name: one for one in known.components}
    assert parts.keys() == {
        *("redis", "linux", "glibc", "runtime of the compiler", "libjemalloc-dev", "init"),
    }
    assert all(one.licence for one in parts.values())
    assert {name for name, one in parts.items() if len(one.digest) != 64} == {
        "runtime of the compiler"
    }
    assert parts["linux"].version.startswith("6.1.") and parts["redis"].version
    text = (made.parent / "parts.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert {one["name"] for one in json.loads(text)["components"]} == parts.keys()


# --- What is seen -------------------------------------------------------------------------------


def test_the_page_asks_nobody_and_leads_nowhere_else(see: Callable[..., Any]) -> None:
    seen = see("""
        const links = [...document.querySelectorAll("nav a")]
          .map((one) => one.getAttribute("href"));
        const others = [...document.querySelectorAll("[src], link")].length;
        return { links, others, asked: performance.getEntriesByType("resource").length,
                 gone: links.filter((one) => !document.querySelector(one)) };
    """)
    assert seen["links"][0] == "#start" and len(seen["links"]) >= 5
    assert (seen["gone"], seen["others"], seen["asked"]) == ([], 0, 0)


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_nothing_is_wider_than_the_window(see: Callable[..., Any], width: int) -> None:
    wide = """
        const map = document.getElementById("map").getBoundingClientRect();
        const out = [...document.querySelectorAll(".tile")]
          .map((one) => one.getBoundingClientRect())
          .filter((one) => one.right > map.right + 1 || one.bottom > map.bottom + 1
                           || one.left < map.left - 1 || one.top < map.top - 1);
        return [document.documentElement.scrollWidth, innerWidth, out.length,
                document.querySelectorAll(".tile").length];
    """
    scroll, window, out, tiles = see(wide, width=width)
    assert scroll <= window == width
    assert out == 0 and tiles > 50


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_words_can_be_read(see: Callable[..., Any], dark: bool) -> None:
    assert see(CONTRAST, dark=dark) == {}


def test_numbers_of_the_page_are_those_that_were_measured(
    see: Callable[..., Any], known: Report
) -> None:
    assert known.timeline is not None and known.memory is not None
    seen = see("""
        const cells = [...document.querySelectorAll("#start table:not(details table) tbody tr")];
        return { rows: cells.map((row) => [...row.children].map((one) => one.textContent)),
                 shares: [...document.querySelectorAll(".stack")].map((stack) =>
                   [...stack.children].map((one) => [one.offsetWidth, stack.clientWidth])),
                 cards: document.querySelector(".cards").innerText };
    """)
    answer = known.timeline.milestones[-1]
    assert seen["rows"][-1][1] == "answer" and seen["rows"][-1][3] == f"{answer.instructions:,}"
    assert f"{answer.instructions / 1e6:,.1f}" in seen["cards"]
    assert f"{known.file / (1 << 20):.1f} MiB" in seen["cards"]
    milestones = known.timeline.milestones
    for (one, following), (wide, whole) in zip(
        pairwise(milestones), seen["shares"][0], strict=True
    ):
        part = (following.instructions - one.instructions) / answer.instructions
        assert wide / whole == pytest.approx(part, abs=0.01), one.name


MAP = """
const tiles = () => [...document.querySelectorAll(".tile")].map((one) => {
  const { width, height } = one.getBoundingClientRect();
  return { text: one.textContent, title: one.title, area: width * height };
});
const press = (selector) => document.querySelector(selector).click();
const tile = (name) => [...document.querySelectorAll(".tile.open")]
  .filter((one) => one.title.startsWith(name + ":"))
  .sort((a, b) => b.clientWidth * b.clientHeight - a.clientWidth * a.clientHeight)[0];
"""


def test_areas_of_the_map_are_bytes(see: Callable[..., Any], known: Report) -> None:
    """In the file and in memory; what is opened fills the map."""
    seen = see(
        MAP
        + """
        const map = document.getElementById("map");
        const all = { whole: map.clientWidth * map.clientHeight, file: tiles() };
        press("[data-measure=memory]");
        all.memory = tiles();
        tile("Linux").click();
        all.linux = tiles();
        tile("net").click();
        all.net = tiles();
        all.where = document.getElementById("crumbs").innerText;
        document.querySelectorAll("#crumbs button")[0].click();
        all.back = tiles();
        return all;
    """
    )

    def area(of: str, name: str) -> Any:
        # drivers/net is a net as well.
        return max(one["area"] for one in seen[of] if one["title"].startswith(f"{name}: "))

    whole = seen["whole"]
    # Places of the map, and what the owners of their parts begin with.
    places = {"Linux": "Linux: "} | {
        name: f"application: {name}" for name in ("libc.a", "libm.a", "liblua.a", "libhiredis.a")
    }
    for measure, total in (("file", known.file), ("memory", known.memory)):
        for name, owner in places.items():
            size = sum(
                part.compressed if measure == "file" else part.memory
                for part in known.parts
                if part.owner.startswith(owner)
            )
            part = size / (total or 1)
            assert area(measure, name) / whole == pytest.approx(part, rel=0.02), (measure, name)
    net = sum(part.memory for part in known.parts if part.owner.startswith("Linux: net/"))
    kernel = sum(part.memory for part in known.parts if part.owner.startswith("Linux: "))
    assert area("linux", "net") / whole == pytest.approx(net / kernel, abs=0.01)
    assert any(one["title"].startswith("ipv4: ") for one in seen["net"])
    assert "Linux" in seen["where"] and "net" in seen["where"]
    assert seen["back"] == seen["memory"] != seen["file"]


def test_the_map_by_option_says_who_wanted_it(see: Callable[..., Any]) -> None:
    seen = see(
        MAP
        + """
        press("[data-by=option]");
        return { tiles: tiles(), pressed: [...document.querySelectorAll("[aria-pressed=true]")]
          .map((one) => one.textContent) };
    """
    )
    (ext4,) = (one for one in seen["tiles"] if one["title"].startswith("EXT4_FS: "))
    assert "% " not in ext4["title"][-3:] and "MOUNT" not in ext4["title"]
    assert ext4["text"].startswith("EXT4_FS")
    assert len(ext4["title"].partition(" %: ")[2]) > 10  # the reason of its fragment
    assert seen["pressed"] == ["in the file", "by option of the kernel"]


def test_options_are_found_by_words(see: Callable[..., Any], known: Report) -> None:
    seen = see("""
        const find = document.getElementById("find");
        const rows = () => [...document.querySelectorAll("#option-rows tbody tr")]
          .filter((one) => one.offsetParent).map((one) => one.children[0].textContent);
        const all = rows().length;
        find.value = "Selected EXT4_fs";
        find.dispatchEvent(new Event("input"));
        return { all, found: rows(), said: document.getElementById("found").textContent };
    """)
    assert seen["all"] == len(known.options)
    assert "JBD2" in seen["found"] and "NET" not in seen["found"]
    assert seen["said"] == f"{len(seen['found'])} of {seen['all']}"


# --- Two images ---------------------------------------------------------------------------------


def test_two_images_side_by_side(
    made: Path, redis_image: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "two.html"
    assert ukl.main(["report", "--diff", str(built), str(redis_image), f"--out={out}"]) == 0
    folder = tmp_path / "browser"
    folder.mkdir()
    seen = browser.look(
        out,
        """
        const row = (name) => [...document.querySelectorAll("tr")]
          .find((one) => one.children[0].textContent === name);
        const words = (name) => [...row(name).children].map((one) => one.textContent);
        return { ext4: words("Linux: fs/ext4"), option: words("EXT4_FS"),
                 part: words("libjemalloc-dev"),
                 wide: [document.documentElement.scrollWidth, innerWidth] };
        """,
        folder,
        width=NARROW,
    )
    nothing = seen["ext4"][1]
    assert seen["ext4"][3].startswith("+") and seen["ext4"][2] == seen["ext4"][3][1:]
    assert seen["option"][1:] == [nothing, "y"] and seen["part"][1] == nothing
    assert seen["wide"] == [NARROW, NARROW]
    assert browser.look(out, CONTRAST, folder) == {}
