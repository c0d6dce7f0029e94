# SPDX-License-Identifier: Apache-2.0
"""The one exception of the package, and the list of everything that can go wrong.

Below the command line code raises, it never prints or exits.  A :class:`UklError` carries

* ``code``: a stable name from :data:`CODES`, for scripts and for looking it up,
* a message: one sentence that says what happened, naming the file, key or program at fault,
* ``hint``: one sentence that says what to do,
* ``detail``: optional lines of evidence, such as the end of a log.

The exit status tells whose fault it is, as :class:`Fault` lists.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from enum import IntEnum


class Fault(IntEnum):
    """Whose fault an error is; the value is the exit status of the command line."""

    USER = 2
    """What was asked for is wrong: a recipe, an option, a variable, an application."""
    MACHINE = 3
    """What was asked for is fine, but this machine or network could not do it."""
    GUEST = 4
    """The image was built and started, and the guest failed."""
    BUG = 70
    """Ours (EX_SOFTWARE of sysexits.h)."""


CODES: dict[str, tuple[Fault, str]] = {
    "internal": (Fault.BUG, "A state that the code holds to be impossible."),
    "code-unknown": (Fault.USER, "There is no error of the code that was asked for."),
    "app-unknown": (Fault.USER, "There is no recipe for the application that was asked for."),
    "recipe-invalid": (Fault.USER, "A recipe does not say what it must, or says too much."),
    "image-invalid": (Fault.USER, "An image.json does not say what it must, or says too much."),
    "system": (Fault.MACHINE, "The operating system refused to read or write something."),
    "apt-unusable": (Fault.MACHINE, "This machine's apt cannot fetch Debian's packages."),
    "source-missing": (Fault.USER, "A folder that was named holds no sources of the kind needed."),
    "source-unavailable": (Fault.MACHINE, "None of the places of a recipe could deliver its file."),
    "source-corrupt": (Fault.MACHINE, "A file is not the one whose digest is known."),
    "source-series": (Fault.USER, "The sources are of a version that the recipe does not accept."),
    "patch-failed": (Fault.USER, "A patch of the series does not apply to these sources."),
    "manifest-invalid": (Fault.MACHINE, "A manifest that the build left is not whole."),
    "fragment-invalid": (Fault.USER, "A configuration fragment has a line that is not understood."),
    "fragment-conflict": (Fault.USER, "Two configuration fragments ask for different values."),
    "config-unmet": (Fault.USER, "The kernel does not follow what the fragments ask for."),
    "config-differs": (Fault.BUG, "The kernel changes the configuration that was made for it."),
    "userspace-invalid": (Fault.USER, "The parts of a guest's userspace do not fit together."),
    "variable-invalid": (Fault.USER, "A variable of the scons command line is unknown or wrong."),
    "fragment-unknown": (Fault.USER, "There is no configuration fragment of that name."),
    "run-invalid": (Fault.USER, "The options of ukl-run do not fit together or to the image."),
    "image-missing": (Fault.USER, "There is no built image where one was expected."),
    "machine-unknown": (Fault.USER, "There is no machine of the name that was given."),
    "machine-ambiguous": (Fault.USER, "A name means several machines."),
    "machine-exists": (Fault.USER, "A name for a new machine is another's already."),
    "machine-runs": (Fault.USER, "What was asked for is for a machine that has ended."),
    "machine-silent": (Fault.MACHINE, "The ukl-run of a machine does not answer."),
    "machine-refused": (Fault.MACHINE, "The ukl-run of a machine cannot do what it was asked."),
    "exec-unsupported": (Fault.USER, "The guest has no init that starts programs from outside."),
    "exec-busy": (Fault.USER, "The guest runs as many programs from outside as it can."),
    "exec-failed": (Fault.USER, "A program could not be started in the guest."),
    "exec-lost": (Fault.GUEST, "The machine ended while a program from outside ran in it."),
    "record-invalid": (Fault.MACHINE, "The record of a machine is not whole."),
    "runtime-unsafe": (Fault.MACHINE, "A folder for sockets is open to others."),
    "disk-invalid": (Fault.USER, "A file that was to be a disk holds no whole ext4 file system."),
    "disk-busy": (Fault.MACHINE, "A disk is in use by another virtual machine."),
    "port-taken": (Fault.MACHINE, "A port of this machine cannot be listened on."),
    "network-failed": (Fault.MACHINE, "What a guest's network was to lead to does not work here."),
    "snapshot-missing": (Fault.USER, "There is no saved state of such a machine."),
    "export-invalid": (Fault.USER, "An image cannot be had in the format that was asked for."),
    "recording-invalid": (Fault.USER, "A recording is not whole, or of another QEMU."),
    "snapshot-failed": (Fault.MACHINE, "A state could not be saved, or not gone on from."),
    "kvm-unusable": (Fault.MACHINE, "Hardware virtualisation was asked for and does not work."),
    "qemu-failed": (Fault.MACHINE, "QEMU did not start the guest, or ended by itself."),
    "guest-not-started": (Fault.GUEST, "The guest came up but could not start the application."),
    "guest-panic": (Fault.GUEST, "The guest's kernel gave up."),
    "guest-hang": (Fault.GUEST, "The guest did not end in the time it was given."),
    "guest-reset": (Fault.GUEST, "The guest reset its machine, on purpose or by a triple fault."),
    "guest-no-status": (Fault.GUEST, "The guest ended without telling how the application ended."),
    "guest-stopped": (Fault.GUEST, "The guest did not end when it was asked to and was stopped."),
    "guest-no-answer": (Fault.GUEST, "The application did not answer in time."),
    "guest-wrong-answer": (Fault.GUEST, "The application's answer was not the expected one."),
    "stopped": (Fault.MACHINE, "Somebody asked the build to stop, by a signal."),
    "measure-failed": (Fault.GUEST, "A guest did not do all that was to be counted."),
    "measure-differs": (Fault.MACHINE, "Runs that must be the same were not."),
    "distcc-unusable": (Fault.MACHINE, "A machine that was to compile does not, or differs."),
    "tool-missing": (Fault.MACHINE, "A host program that the build runs is not installed."),
    "tool-failed": (Fault.MACHINE, "A host program ended with an error."),
    "tool-timeout": (Fault.MACHINE, "A host program did not end in the time it was given."),
    "link-missing": (Fault.USER, "The project's build has not linked the program of the recipe."),
    "link-stale": (Fault.USER, "A program is linked with what was compiled before, for ring 3."),
    "link-undeclared": (Fault.USER, "A program is linked with what its recipe does not name."),
    "link-unsupported": (Fault.USER, "A program is linked in a way that cannot be followed."),
    "elf-format": (Fault.USER, "A file is no x86-64 relocatable object, or a damaged one."),
    "elf-section": (Fault.USER, "A section of the application cannot be part of the kernel."),
    "elf-relocation": (Fault.USER, "Code or data reaches something in a way the kernel lacks."),
    "elf-undefined": (Fault.USER, "The application uses names that nothing defines."),
    "elf-symbol": (Fault.USER, "A symbol the application must have is missing or unusable."),
    "elf-size": (Fault.USER, "The application's static data does not fit into the kernel image."),
    "elf-contract": (Fault.BUG, "The archive that was made breaks docs/design.md's contract."),
    "elf-lint": (Fault.USER, "Something of the application cannot be linked or work in ring 0."),
    "port-invalid": (Fault.USER, "What ukl-port was asked for is not clear, or cannot be."),
    "lint-input": (Fault.USER, "A file that ukl-lint was given does not exist."),
    "elf-linked": (Fault.BUG, "The linked kernel does not hold the application as it must."),
    "linker-table": (Fault.USER, "A table under linker/ or in a recipe is not well formed."),
}
"""Every error code, with its :class:`Fault` and what it means.  One home: a code that is not
here cannot be raised, and a test fails when one here is raised nowhere."""


class UklError(Exception):
    """An error that a person is meant to read.

    :raise KeyError: if ``code`` is not in :data:`CODES`.
    """

    def __init__(self, code: str, message: str, *, hint: str, detail: str = "") -> None:
        super().__init__(message)
        self.fault, self.meaning = CODES[code]
        self.code = code
        self.message = message
        self.hint = hint
        self.detail = detail

    @property
    def exit_status(self) -> int:
        """Exit status for the command line, see :class:`Fault`."""
        return int(self.fault)

    def __str__(self) -> str:
        parts = [f"error[{self.code}]: {self.message}"]
        if self.detail:
            parts.extend(f"  | {line}" for line in self.detail.rstrip("\n").splitlines())
        parts.append(f"hint: {self.hint}")
        return "\n".join(parts)


def refused(error: OSError) -> UklError:
    """Return what a person reads of an error of the operating system."""
    what = f"{error.filename}: " if error.filename is not None else ""
    return UklError(
        "system",
        f"{what}{error.strerror or error}",
        hint="look at the path, its permissions and the free disk space (df), then repeat",
    )


def reported(work: Callable[[], int]) -> int:
    """Do what a command line asks for, and return the exit status.

    An error is printed to standard error, and decides the status.  Whatever else is raised comes
    through.
    """
    try:
        status = work()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Who read standard output has gone (| head): as a program that SIGPIPE ends.  What is still
        # held back must not be an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except UklError as error:
        shown = error
    except OSError as error:
        shown = refused(error)
    print(shown, file=sys.stderr)
    return shown.exit_status
