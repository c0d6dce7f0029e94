# SPDX-License-Identifier: Apache-2.0
"""Runs an image with the plugin and the program that makes the requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ukl_build import proc
from ukl_build.elf.linked import application_text
from ukl_build.errors import UklError
from ukl_build.image import Image, Init, Smoke
from ukl_build.initconf import Job, Mode
from ukl_build.measure.counts import DONE, Run, gather, parse
from ukl_build.recipe import Bench
from ukl_build.run import qemu
from ukl_build.run.guest import start_guest
from ukl_build.run.outcome import Kind
from ukl_build.run.vm import Vm, from_image

SOURCE = Path(__file__).resolve().parents[2] / "measure"
"""Folder of the plugin and of the guest's programs."""

CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
PLUGIN_FLAGS = ("-shared", "-fPIC", "-fvisibility=hidden")

COUNT = "count.c"
"""The plugin that counts what instructions are, not where."""

LOAD = "/ukl-load"
"""Path in the guest of the program that makes the requests."""

BATCHES = 3
"""Of each kind of request: one that is counted would not show whether it is always the same."""

DEADLINE_S = 1800.0
"""Seconds for one run: far more than the slowest needs on a busy machine."""


@dataclass(frozen=True)
class Programs:
    """What is compiled for measuring."""

    plugin: Path
    load: Path

    @classmethod
    def build(cls, folder: Path, plugin: str = COUNT) -> Programs:
        """Compile into a folder.

        :param plugin: name of its file.
        :raise UklError: ``tool-missing`` or ``tool-failed``.
        """
        return cls(
            build_plugin(folder / "plugin.so", plugin), build_program(folder / "load", "load.c")
        )


def build_plugin(out: Path, source: str = COUNT) -> Path:
    """Compile a plugin for QEMU.

    :param source: name of its file.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    proc.run(["gcc", *CFLAGS, *PLUGIN_FLAGS, "-o", out, SOURCE / source], timeout=120)
    return out


def build_program(out: Path, source: str) -> Path:
    """Compile an ordinary static program of the guest.

    :param source: name of its file.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    proc.run(["gcc", "-static", *CFLAGS, "-o", out, SOURCE / source], timeout=120)
    return out


def loading(plugin: Path, *words: str) -> tuple[str, ...]:
    """Return QEMU's arguments that load a plugin.

    :param words: what it is told, ``NAME=VALUE``.
    """
    return "-plugin", ",".join((f"file={qemu.escape(plugin)}", *words))


def counting(plugin: Path, out: Path, text: tuple[int, int] | None) -> tuple[str, ...]:
    """Return QEMU's arguments that load the plugin.

    :param out: takes the counts.
    :param text: first address and end of the application's code in the kernel half, if any.
    """
    where = () if text is None else (f"text={text[0]:x}-{text[1]:x}",)
    return loading(plugin, f"out={qemu.escape(out)}", *where)


def load_argv(bench: Bench) -> tuple[str, ...]:
    """Return the command line of the program that makes the requests, see measure/load.c."""
    words = [LOAD, str(bench.port)]
    for one in bench.workloads:
        words += [one.name, str(one.connections), str(one.requests), str(BATCHES)]
        words += [one.setup, one.settled, one.send, one.expect, one.until]
    return tuple(words)


def first_answer_argv(asked: Smoke) -> tuple[str, ...]:
    """Return the command line of that program that asks once, for when it is answered."""
    return (
        LOAD,
        str(asked.port),
        "first answer",
        "1",
        "0",
        "0",
        "",
        "",
        asked.send,
        asked.expect,
        "",
    )


def machine(image: Image, folder: Path, *, pti: bool | None) -> Vm:
    """Return the machine that an image is measured on.

    :param folder: where its image.json is.
    :param pti: whether its page tables are isolated; None leaves it to the kernel.
    :raise UklError: ``run-invalid`` for an image without our init.
    """
    if image.init is not Init.RING3:
        raise UklError(
            "run-invalid",
            f"{image.name} runs without our init, which would start what makes the requests",
            hint=f"build it with our init: scons app={image.name} init=ring3",
        )
    vm = from_image(image, folder)
    # Where the application's code is must be known before; there is no network card to wait for.
    # What page table a thread's stack happens to be in is worth 3,000 instructions a thread.
    own = ("nokaslr", "norandmaps", "ukl.ip=none")
    isolated = () if pti is None else (f"pti={'on' if pti else 'off'}",)
    return replace(vm, cmdline=(*vm.cmdline, *own, *isolated), cpus=1, repeatable=True)


def over(image: Image, bench: Bench, programs: Programs) -> dict[str, Any]:
    """Return what is laid over an image to have all requests made."""
    laid: dict[str, Any] = {"jobs": ()}
    if bench.args is not None:
        laid["argv"] = (image.app.argv[0], *bench.args)
    if image.disks or image.shares:
        # They are not there: what is written to a disk is done when the host comes to it.
        laid["mounts"] = ()
    if bench.workloads:
        laid["jobs"] = (Job(load_argv(bench), mode=Mode.BESIDE, name="load"),)
        laid["programs"] = {LOAD: programs.load}
    return laid


def run(
    image: Image, folder: Path, bench: Bench, programs: Programs, scratch: Path, *, pti: bool
) -> Run:
    """Start an image, make all requests, and return what they took.

    :param folder: where its image.json is.
    :param scratch: see :func:`observe`.
    :param pti: see :func:`machine`.
    :raise UklError: as :func:`machine` and :func:`observe`.
    :raise OSError: if a file cannot be read or written.
    """
    vm = machine(image, folder, pti=pti)
    return observe(vm, programs.plugin, scratch, **over(image, bench, programs))


def observe(vm: Vm, plugin: Path, scratch: Path, **over: Any) -> Run:
    """Run a machine to its end, and return what was counted between its programs' marks.

    :param scratch: empty folder for the run's files; console.log stays there.
    :param over: what is laid over its image, see :func:`ukl_build.run.guest.overlay`.
    :raise UklError: ``measure-failed``, or of the machine that could not start.
    :raise OSError: if a file cannot be read or written.
    """
    out = scratch / "counts"
    lines = watched(vm, plugin, out, scratch, **over)
    return gather(lines, parse(out.read_bytes()))


def watched(vm: Vm, plugin: Path, out: Path, scratch: Path, **over: Any) -> list[str]:
    """Run a machine to its end with a plugin, and return the lines of its console.

    :param out: what the plugin writes.
    :param scratch: see :func:`observe`.
    :param over: see :func:`observe`.
    :raise UklError: as :func:`observe`.
    :raise OSError: if a file cannot be read or written.
    """
    kernel = vm.kernel
    assert kernel is not None  # of an image
    vmlinux = kernel.with_suffix(".vmlinux")
    text = application_text(vmlinux) if vmlinux.is_file() else None
    vm = replace(vm, extra=(*vm.extra, *counting(plugin, out, text)))
    return to_its_end(vm, scratch, **over)


def to_its_end(vm: Vm, scratch: Path, *, done: str = DONE, **over: Any) -> list[str]:
    """Run a machine until all is done, and return the lines of its console.

    :param scratch: see :func:`observe`.
    :param done: a line that the console has then; empty for none.
    :param over: see :func:`observe`.
    :raise UklError: ``measure-failed``, or of the machine that could not start.
    :raise OSError: if a file cannot be read or written.
    """
    assert vm.kernel is not None  # of an image
    with start_guest(vm.kernel, scratch, base=vm.initrd, vm=vm, **over) as it:
        outcome = it.wait(DEADLINE_S)
        if outcome is None:
            outcome = it.give_up()
        lines = it.console.read_text(errors="backslashreplace").splitlines()
        # Without a status port, that the power was turned off is all that is known; with one, the
        # application is known to have ended when it was told to.
        ended = outcome.by_itself or outcome.kind is Kind.NO_STATUS
        if not ended or (done and done not in lines):
            raise UklError(
                "measure-failed",
                f"{vm.name}: not all that is to be counted was done: {outcome}",
                # The log is a scratch file, and gone when this is read.
                hint=f"read its last lines above; `tools/ukl-run --qemu {vm.name}` keeps a log",
                detail=proc.tail(it.console),
            )
    return lines
