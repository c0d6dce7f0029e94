# SPDX-License-Identifier: Apache-2.0
"""Records of machines: what was started, whether it still runs, how it ended.

Each run of ukl-run has a folder of its own, named as the machine is::

    $XDG_STATE_HOME/ukl-build/machines/NAME/
        lock            held (flock) by the ukl-run that looks after the machine, while it lives
        machine.json    what was started
        console.log     what the guest said
        ended.json      how it ended

The lock is the only witness of life: the kernel drops it with the process, however that ends, and
no number of a process can be somebody else's meanwhile.  A record without an end whose lock is free
is that of a ukl-run that was killed.

Folders are made and removed under one more lock, ``machines/lock``: who holds it and sees a folder
without machine.json sees what a killed process has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from platformdirs import user_runtime_path, user_state_path
from pydantic import Field

from ukl_build.errors import UklError
from ukl_build.image import Protocol
from ukl_build.model import Model, nearest, parse_json, store_result
from ukl_build.run.crash.report import Report
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Accel

M = TypeVar("M", bound=Model)

KEPT = 20
"""Records of ended machines of one image that are kept."""

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
MAX_NAME = 60
"""Bytes of a name: the path of a socket has 107 in all."""

RECORD_FILE = "machine.json"
ENDED_FILE = "ended.json"
CONSOLE_FILE = "console.log"
TALK_FILE = "ukl-run.log"
LOCK_FILE = "lock"


class Forwarded(Model):
    """A port of the host that leads to one of the guest, as it was bound."""

    address: str
    host: int
    guest: int
    proto: Protocol

    def __str__(self) -> str:
        return f"{self.address}:{self.host}->{self.guest}/{self.proto}"


class Record(Model):
    """What was started."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str = ""
    """What it is called, and its folder."""
    label: str
    """Of the image: its application, and its variant if it has one."""
    image: str
    """Folder of its image.json."""
    command: str
    """What starts another one, to be pasted."""
    pid: int
    """Process id of ukl-run."""
    started_s: float
    """When ukl-run was asked, seconds since the epoch."""
    memory_mib: int
    cpus: int
    accel: Accel
    console: str = ""
    """File of what the guest said."""
    socket: str = ""
    """Where its ukl-run can be asked: see :mod:`ukl_build.run.control`."""
    detached: bool = False
    remove: bool = False
    """Whether the record goes with the machine (``--rm``)."""
    qemu_pid: int | None = None
    """Process id of QEMU; none before it runs."""
    ports: tuple[Forwarded, ...] = ()


class Ended(Model):
    """How a machine ended."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    status: int
    """Exit status of ukl-run."""
    text: str
    """One clause for people."""
    kind: Kind | None = None
    """None if there was no machine yet."""
    error: str = ""
    """Code of the error, if it was one."""
    ended_s: float
    """Seconds since the epoch."""
    crash: Report | None = None
    """What is known of it, if something has crashed."""


def ended(
    status: int,
    outcome: Outcome | None,
    error: UklError | None = None,
    crash: Report | None = None,
) -> Ended:
    """Return the end of a machine as it is kept.

    :param outcome: of the machine; None if none was started.
    :param error: what ukl-run was left by.
    """
    text = str(outcome or (error.message if error else "") or "it was not started")
    return Ended(
        status=status,
        text=text,
        kind=outcome.kind if outcome else None,
        error=error.code if error else "",
        ended_s=time.time(),
        crash=crash,
    )


def as_json(record: Record | None, how: Ended | None) -> str:
    """Return what is known of a machine, as one line of JSON."""
    described = record.model_dump(mode="json", by_alias=True) if record else {}
    return json.dumps({**described, "ended": how and how.model_dump(mode="json", by_alias=True)})


@dataclass(frozen=True)
class Entry:
    """A record as somebody else sees it."""

    folder: Path
    record: Record
    alive: bool
    """Whether its ukl-run still looks after it."""
    ended: Ended | None

    @property
    def name(self) -> str:
        """What the machine is called."""
        return self.record.name

    @property
    def console(self) -> Path:
        """File of what the guest said."""
        return Path(self.record.console)


def _try_lock(path: Path, how: int) -> int | None:
    """Return a descriptor that holds a lock, None if somebody else holds it.

    :raise FileNotFoundError: if the file's folder is not there.
    """
    # Not inherited: QEMU must not hold it longer than its ukl-run.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_alive(folder: Path) -> bool:
    """Return whether somebody looks after the machine of a record."""
    try:
        # Shared: two who look at the same time do not take each other for the holder.
        descriptor = _try_lock(folder / LOCK_FILE, fcntl.LOCK_SH)
    except FileNotFoundError:  # it has gone with its machine
        return False
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _read(model: type[M], path: Path) -> M:
    return parse_json(model, path.read_bytes(), where=path, code="record-invalid")


class Held:
    """The record of our own machine, locked until :meth:`close`."""

    def __init__(self, store: Store, folder: Path, record: Record, lock: int) -> None:
        self._store = store
        self._lock = lock
        self._dropped = False
        self.folder = folder
        self.record = record

    def update(self, **changes: object) -> None:
        """Change the record, in the file as well.

        :raise OSError: if it cannot be written.
        """
        self.record = self.record.model_copy(update=changes)
        store_result(self.record, self.folder / RECORD_FILE)

    def end(self, how: Ended) -> None:
        """Keep how it ended.

        :raise OSError: if it cannot be written.
        """
        store_result(how, self.folder / ENDED_FILE)

    def drop(self) -> None:
        """Let the record go when it is given free: nothing ran."""
        self._dropped = True

    def close(self) -> None:
        """Give the record free; it goes if that was asked for.  May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            if self.record.remove or self._dropped:
                self._store.remove(self.folder)


class Store:
    """All records of one user."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        """Use two folders, which need not be there yet."""
        self.folder = folder
        self.sockets = sockets

    @classmethod
    def default(cls) -> Store:
        """Return that of the user who runs this."""
        return cls(user_state_path("ukl-build") / "machines", runtime_folder())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / LOCK_FILE).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _folders(self) -> list[Path]:
        """Return the folders of all records."""
        try:
            return sorted(path for path in self.folder.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []

    def _entry(self, folder: Path) -> Entry | None:
        """Return a record, None if it is not there yet or not any more.

        :raise UklError: ``record-invalid``.
        """
        try:
            # In this order: one that ends meanwhile has an end when its lock is seen to be free.
            alive = is_alive(folder)
            record = _read(Record, folder / RECORD_FILE)
            with contextlib.suppress(FileNotFoundError):
                return Entry(folder, record, alive, _read(Ended, folder / ENDED_FILE))
            return Entry(folder, record, alive, None)
        except FileNotFoundError:
            return None

    def look(self) -> tuple[list[Entry], list[UklError]]:
        """Return all records, the oldest first, and what is wrong with others.

        One that is damaged, or of another version, does not keep anybody from the rest.

        :raise OSError: if one cannot be read.
        """
        found, wrong = [], []
        for folder in self._folders():
            try:
                if (entry := self._entry(folder)) is not None:
                    found.append(entry)
            except UklError as error:
                wrong.append(error)
        return sorted(found, key=lambda entry: entry.record.started_s), wrong

    def all(self) -> list[Entry]:
        """Return all records that can be read, as :meth:`look`."""
        return self.look()[0]

    def find(self, word: str, *, alive: bool | None = None) -> Entry:
        """Return the machine that is meant by a name, or by an image's label if that is clear.

        :param alive: look only among those that run, or only among those that do not.  Otherwise a
            label means the one that runs, or the last.
        :raise UklError: ``machine-unknown``, ``machine-ambiguous`` or ``record-invalid``.
        """
        if re.fullmatch(NAME, word):
            self._entry(self.folder / word)  # says what is wrong with it
        entries = [one for one in self.all() if alive is None or one.alive is alive]
        named = [one for one in entries if one.name == word]
        labelled = [one for one in entries if one.record.label == word]
        if not named and alive is None and labelled:
            named = [one for one in labelled if one.alive] or labelled[-1:]
        found = named or labelled
        if len(found) == 1:
            return found[0]
        state = {None: "", True: " that runs", False: " that has ended"}[alive]
        names = [one.name for one in entries]
        if not found:
            raise UklError(
                "machine-unknown",
                f"there is no machine {word!r}{state}{nearest(word, names)}",
                hint="`ukl ps -a` lists all",
            )
        raise UklError(
            "machine-ambiguous",
            f"{word!r} are several: {', '.join(one.name for one in found)}",
            hint="say which",
        )

    def create(self, described: Record, name: str | None = None) -> Held:
        """Make the record of a machine to be started.

        :param described: all but its name, its socket and, unless it is to be elsewhere, its log.
        :param name: None takes ``LABEL-1`` or the next number that is free.
        :raise UklError: ``machine-exists``.
        :raise OSError: if it cannot be written; nothing is left then.
        """
        with self._locked():
            folder = self._make_folder(name, described.label)
            try:
                lock = _try_lock(folder / LOCK_FILE, fcntl.LOCK_EX)
                assert lock is not None  # nobody knows of it yet
                held = Held(self, folder, described, lock)
                held.update(
                    name=folder.name,
                    console=described.console or str(folder / CONSOLE_FILE),
                    socket=str(self.sockets / f"{folder.name}.sock"),
                )
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._prune(described.label)
        return held

    def _make_folder(self, name: str | None, label: str) -> Path:
        if name is not None:
            folder = self.folder / name
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError as error:
                running = is_alive(folder)
                raise UklError(
                    "machine-exists",
                    f"there is a machine {name!r} already, which "
                    + ("runs" if running else "has ended"),
                    hint=f"take another name, or: ukl rm {'-f ' if running else ''}{name}",
                ) from error
            return folder
        # Behind the highest, so that the names are in the order of their starts.
        taken = [re.fullmatch(rf"{re.escape(label)}-(\d+)", path.name) for path in self._folders()]
        number = max((int(match[1]) for match in taken if match), default=0) + 1
        folder = self.folder / f"{label}-{number}"
        folder.mkdir(mode=0o700)
        return folder

    def _prune(self, label: str) -> None:
        """Remove what is too old, and what killed processes have left unfinished."""
        for folder in self._folders():
            if not (folder / RECORD_FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)
        ended = [one for one in self.all() if one.record.label == label and not one.alive]
        for entry in ended[:-KEPT]:
            self._remove(entry.folder)

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder)
        (self.sockets / f"{folder.name}.sock").unlink(missing_ok=True)

    def remove(self, folder: Path) -> bool:
        """Remove a record, unless its machine runs.

        :return: whether it is gone.
        :raise OSError: if it cannot be removed.
        """
        with self._locked():
            if folder.is_dir():
                if is_alive(folder):
                    return False
                self._remove(folder)
        return True


def runtime_folder() -> Path:
    """Return the folder for what ends with the session: ours in XDG_RUNTIME_DIR.

    Elsewhere if there is no such folder, or others can come into it.
    """
    with warnings.catch_warnings():
        # Of the latter; :func:`private` looks at what is taken in its place.
        warnings.simplefilter("ignore")
        return user_runtime_path("ukl-build")


def private(folder: Path) -> Path:
    """Make a folder for sockets that nobody else can come into, and return it.

    :raise UklError: ``runtime-unsafe`` if one is there that is not ours alone: without
        XDG_RUNTIME_DIR it is in a folder where anybody can make one.
    :raise OSError: if it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UklError(
            "runtime-unsafe",
            f"{folder} is not a folder that only you can use",
            hint="remove it, or set XDG_RUNTIME_DIR to a folder of yours with mode 0700",
        )
    return folder
