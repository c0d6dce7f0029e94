# SPDX-License-Identifier: Apache-2.0
"""The page of an image, from what is known of it."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ukl_build import files, image, size
from ukl_build.errors import UklError
from ukl_build.image import App, Image, Variant
from ukl_build.measure import timeline
from ukl_build.measure.timeline import Initcall, Milestone, Timeline
from ukl_build.report import cli, compare, facts, page, sbom
from ukl_build.report.facts import Component, Option, Part, Protection, Report, Requests, Stage

EVIL = "</script><b onload=x>&'\""


def part(owner: str, file: str, memory: int, compressed: int, *options: str) -> Part:
    """Return a part of an image."""
    return Part(
        owner=owner,
        file=file,
        code=memory,
        data=0,
        zero=0,
        compressed=compressed,
        options=options,
    )


PARTS = (
    part("application", "/b/objects/main.o", 500, 200),
    part("application: libc.a", "/c/libc.a(printf.o)", 1500, 300),
    part("Linux: net/ipv4", "net/ipv4/tcp.o", 4000, 900, "NET", "INET"),
    part("Linux: unwind tables", "net/ipv4/tcp.o", 400, 90, "NET", "INET"),
    part("Linux: mm", "mm/slub.o", 3000, 600),
    part("Linux: names of symbols", "", 700, 100),
    part("alignment", "", 100, 0),
)


def report(**other: Any) -> Report:
    """Return a report with something in all of its parts."""
    steps = ("firmware", 0), ("kernel", 1000), ("answer", 5000)
    values: dict[str, Any] = {
        "image": Image(
            name="app",
            kernel="app.bzImage",
            cmdline=(),
            memory_mib=64,
            cpus=1,
            app=App(argv=("/UKL",)),
            redistributable=True,
        ),
        "digest": "ab" * 32,
        "file": 2190,
        "memory": 10200,
        "parts": PARTS,
        "options": (
            Option(name="NET", value="y", prompt="Network", reason=EVIL, where="f:1", asked=True),
            Option(name="INET", value="y", prompt=None, reason="why", where="g:1", asked=False),
        ),
        "protections": (
            Protection(option="RANDOMIZE_BASE", on=True, what="KASLR"),
            Protection(option="X86_KERNEL_IBT", on=False, what=EVIL),
        ),
        "components": (
            Component(
                name="app",
                version="5:1.0-1",
                licence="BSD-3-Clause",
                origin=EVIL,
                digest="cd" * 32,
                package="app",
                package_version="5:1.0-1",
            ),
            Component(name="linux", version="6.1", licence="GPL-2.0-only", origin="", digest=""),
        ),
        "stages": (Stage(name="linux", output=EVIL, seconds=12.5),),
        "requests": (
            Requests(
                name="GET",
                pti=True,
                instructions={"ukl": 100.0, "twin": 150.0},
                transitions={"ukl": 0.0, "twin": 2.0},
            ),
        ),
        "timeline": Timeline(
            identity="ab" * 32,
            qemu="QEMU",
            milestones=tuple(
                Milestone(name=name, what=EVIL, instructions=at, seconds=at / 1e4)
                for name, at in steps
            ),
            initcalls=(Initcall(name="acpi_init", level="4", instructions=777, seconds=0.1),),
            said=("Spectre V1 : Mitigation: barriers",),
        ),
        "missing": {},
    }
    return Report(**values | other)


def test_what_comes_from_outside_ends_no_script_and_begins_no_element() -> None:
    text = page.page(report(), f"ukl report {EVIL}")
    assert text.count("<script") == text.count("</script>") == 1
    assert "<b onload" not in text
    (reasons,) = re.findall(r"^const reasons = (.*);$", text, re.M)
    assert json.loads(reasons)["NET"] == EVIL


def test_all_leaves_of_the_map_are_below_their_owners() -> None:
    text = page.page(report(), "")
    (leaves,) = re.findall(r"^const leaves = (.*);$", text, re.M)
    assert json.loads(leaves) == [
        [["application", "main.o"], [], 200, 500],
        [["libc.a", "printf.o"], [], 300, 1500],
        [["Linux", "net", "ipv4", "tcp.o"], ["NET", "INET"], 900, 4000],
        [["Linux", "unwind tables", "net", "ipv4", "tcp.o"], ["NET", "INET"], 90, 400],
        [["Linux", "mm", "slub.o"], [], 600, 3000],
        [["Linux", "names of symbols"], [], 100, 700],
        [["alignment"], [], 0, 100],
    ]


def test_phases_are_parts_of_the_whole() -> None:
    text = page.page(report(), "")
    assert re.findall(r'style="flex-grow:([\d.]+)"', text) == ["20.0", "80.0"] * 2
    assert "4,000" in text and "acpi_init" in text and "777" in text


def test_a_page_says_what_it_knows_nothing_of() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("parts", "options", "protections", "stages", "requests"), ()
    )
    bare = report(**nothing, memory=None, timeline=None, missing={"start": "there was no time"})
    text = page.page(bare, "")
    assert "Nothing is said of the start: there was no time." in text
    for section in ("start", "bytes", "requests", "protections", "options", "build"):
        assert f'id="{section}"' not in text and f'href="#{section}"' not in text
    assert 'id="parts"' in text


def test_an_ordinary_process_is_not_said_to_be_in_ring_0() -> None:
    words = "nothing keeps a wild pointer"
    assert words in page.page(report(), "")
    twin = report().image.model_copy(update={"variant": Variant.TWIN})
    assert words not in page.page(report(image=twin), "")


# --- Parts for other programs -------------------------------------------------------------------


def test_the_bill_of_materials_is_valid_and_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = sbom.sbom(report())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert text == sbom.sbom(report())
    bill = json.loads(text)
    assert bill["metadata"]["component"]["hashes"][0]["content"] == "ab" * 32
    assert bill["metadata"]["timestamp"] == "1970-01-01T00:00:00+00:00"
    by_name = {one["name"]: one for one in bill["components"]}
    assert by_name["app"]["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert by_name["app"]["purl"] == "pkg:deb/debian/app@5:1.0-1"
    assert by_name["linux"]["type"] == "operating-system" and "purl" not in by_name["linux"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert "1970-01-02" in sbom.sbom(report())
    assert sbom.sbom(report(digest="ef" * 32)) != text


# --- Two images ---------------------------------------------------------------------------------


def test_only_what_differs_is_compared() -> None:
    same = compare.compare(report(), report())
    assert same.same and not (same.owners or same.files or same.options or same.components)
    assert "The bootable files are the same." in page.page_of_two(same, "")


def test_what_has_grown_comes_first() -> None:
    grown = report(
        digest="00" * 32,
        parts=(*PARTS[:2], part("Linux: net/ipv4", "net/ipv4/tcp.o", 4600, 1, "NET"), *PARTS[3:5]),
        options=(report().options[0].model_copy(update={"value": "n"}),),
        components=report().components[:1],
        timeline=report().timeline.model_copy(  # type: ignore[union-attr]
            update={"milestones": report().timeline.milestones[::2]}  # type: ignore[union-attr]
        ),
    )
    found = compare.compare(report(), grown)
    assert (found.before, found.after, found.same) == ("app (before)", "app (after)", False)
    assert [(one.name, one.before, one.after) for one in found.owners] == [
        ("Linux: names of symbols", 700, None),
        ("Linux: net/ipv4", 4000, 4600),
        ("alignment", 100, None),
    ]
    assert found.files[0].name == "Linux: names of symbols"
    assert [(one.name, one.before, one.after) for one in found.options] == [
        ("INET", "y", None),
        ("NET", "y", None),
    ]
    assert [one.name for one in found.components] == ["linux"]
    # A phase is one of both: kernel is no milestone of the other.
    assert [(one.name, one.more) for one in found.phases] == [("firmware to answer", 0)]
    text = page.page_of_two(found, EVIL)
    assert "+600" in text and "-700" in text and "<b onload" not in text


# --- What is looked at --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of an image, of which there is not much."""
    out = tmp_path / "build" / "app"
    out.mkdir(parents=True)
    image.store(report().image, out / "image.json")
    (out / "app.bzImage").write_bytes(b"kernel")
    return out


def test_an_image_without_its_kernel_has_no_report(folder: Path) -> None:
    (folder / "app.bzImage").unlink()
    with pytest.raises(UklError, match="which is not there") as error:
        facts.gather(folder, lambda _: None)
    assert error.value.code == "image-missing"


def test_what_was_measured_of_another_kernel_is_not_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def sizes(layout: Any) -> size.Sizes:
        measured.append(layout)
        digest = files.sha256(folder / "app.bzImage")
        return size.Sizes(app="app", kernel=digest, file=6, memory=7, parts=())

    monkeypatch.setattr(size, "sizes", sizes)
    (folder / "size.json").write_text('{"schema": 1, "app": "app", "file": 1, "memory": 2}')
    first = facts.gather(folder, lambda _: None, start=False)
    assert (first.memory, len(measured)) == (7, 1)
    assert facts.gather(folder, lambda _: None, start=False).memory == 7 and len(measured) == 1
    (folder / "app.bzImage").write_bytes(b"another")
    facts.gather(folder, lambda _: None, start=False)
    assert len(measured) == 2


def test_a_start_is_measured_again_of_an_image_that_starts_otherwise(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may be the same, and what it is told another."""
    monkeypatch.setattr(
        size, "sizes", lambda _: size.Sizes(app="app", kernel="", file=6, memory=7, parts=())
    )
    started = []

    def measure(image: Image, where: Path, say: Any) -> Timeline:
        started.append(image)
        known = report().timeline
        assert known is not None
        return known.model_copy(update={"identity": timeline.identity(image, where)})

    monkeypatch.setattr(timeline, "measure", measure)
    for _ in range(2):
        assert facts.gather(folder, lambda _: None).timeline is not None
    assert len(started) == 1
    other = report().image.model_copy(update={"cmdline": ("quiet",)})
    image.store(other, folder / "image.json")
    facts.gather(folder, lambda _: None)
    assert started[1:] == [other]


def test_stages_are_those_of_the_application_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        size, "sizes", lambda _: size.Sizes(app="app", kernel="", file=6, memory=7, parts=())
    )
    seconds = {
        "link build/app/objects/app.o": 1.5,
        "linux other/build/app/app.bzImage": 20.0,
        "linux build/app/twin/app.bzImage": 30.0,
        "linux build/apples/app.bzImage": 40.0,
        "image app": 1.0,
    }
    (folder.parent / "durations.json").write_text(json.dumps(seconds))
    found = facts.gather(folder, lambda _: None, start=False).stages
    assert [(one.name, one.output, one.seconds) for one in found] == [
        ("link", "objects/app.o", 1.5),
        ("linux", "app.bzImage", 20.0),
    ]


@pytest.mark.parametrize(
    "words", [["a", "b"], ["--diff", "a"], ["--diff", "a", "b", "c"], ["--diff", "--sbom=x", *"ab"]]
)
def test_images_that_are_too_many_or_too_few_are_refused(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.COMMAND.arguments(parser)
    with pytest.raises(UklError) as error:
        cli.COMMAND.run(parser.parse_args(words))
    assert error.value.code == "run-invalid"
