# SPDX-License-Identifier: Apache-2.0
"""Machines from their start to their removal: ukl-run, and ukl beside it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.place import ENOUGH_S, Place, exited, gone, running
from tests.waiting import wait_for
from ukl_build.errors import UklError
from ukl_build.run import control, lifecycle, records
from ukl_build.run.records import Ended, Entry, Record, Store
from ukl_build.run.vm import Accel


def described(label: str = "app", **changes: Any) -> Record:
    """Return a record as ukl-run makes it."""
    what: dict[str, Any] = {
        **{"label": label, "image": "/build/app", "command": "ukl-run", "pid": os.getpid()},
        **{"started_s": 0.0, "memory_mib": 32, "cpus": 1, "accel": Accel.TCG},
    }
    return Record(**(what | changes))


END = Ended(status=0, text="it ended", ended_s=1.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with nothing in it."""
    (tmp_path / "sockets").mkdir(mode=0o700)
    return Store(tmp_path / "machines", tmp_path / "sockets")


def test_names_are_numbered_behind_the_highest(store: Store) -> None:
    assert store.all() == []
    names = []
    for label in ("app", "app", "app-two", "app"):
        with closing(store.create(described(label))) as held:
            names.append(held.record.name)
            if len(names) == 1:
                held.drop()
    assert names == ["app-1", "app-1", "app-two-1", "app-2"]


def test_a_record_is_alive_while_it_is_held(store: Store) -> None:
    with closing(store.create(described())) as held:
        (entry,) = store.all()
        assert (entry.alive, entry.ended) == (True, None)
        assert not store.remove(entry.folder)
        held.end(END)
    (entry,) = store.all()
    assert (entry.alive, entry.ended) == (False, END)
    assert store.remove(entry.folder)
    assert store.all() == []


def test_a_name_is_one_machines(store: Store) -> None:
    with (
        closing(store.create(described(), "mine")),
        pytest.raises(UklError, match="which runs") as caught,
    ):
        store.create(described(), "mine")
    assert (caught.value.code, "ukl rm -f mine" in caught.value.hint) == ("machine-exists", True)
    with pytest.raises(UklError, match="which has ended"):
        store.create(described(), "mine")


def test_a_machine_is_found_by_its_name_or_its_label(store: Store) -> None:
    with (
        closing(store.create(described(started_s=1.0))),
        closing(store.create(described(started_s=2.0))),
    ):
        assert store.find("app-2").name == "app-2"
        with pytest.raises(UklError, match="'app' are several: app-1, app-2") as caught:
            store.find("app", alive=True)
        assert caught.value.code == "machine-ambiguous"
        with pytest.raises(UklError, match="'app-3'; did you mean 'app-") as caught:
            store.find("app-3")
        assert caught.value.code == "machine-unknown"
    assert store.find("app").name == "app-2"
    with pytest.raises(UklError, match="no machine 'app' that runs"):
        store.find("app", alive=True)


def test_old_records_of_the_same_image_go(store: Store) -> None:
    for number in range(records.KEPT + 5):
        for label in ("app", "other"):
            store.create(described(label, started_s=float(number))).close()
    with closing(store.create(described(started_s=-1.0))):
        names = [one.name for one in store.all()]
    # The one that runs is the oldest, and stays.
    assert names[0] == "app-26"
    assert names.count("app-6") == 1
    assert "app-5" not in names
    assert sum(name.startswith("other") for name in names) == records.KEPT + 1


def test_what_a_killed_process_has_left_goes(store: Store) -> None:
    store.create(described()).close()
    (store.folder / "half").mkdir()
    assert len(store.all()) == 1
    store.create(described()).close()
    assert not (store.folder / "half").exists()
    assert len(store.all()) == 2


def test_a_record_that_cannot_be_written_leaves_nothing(store: Store) -> None:
    # As a full disk does: no name of a file is so long.
    with pytest.raises(OSError, match="too long"):
        store.create(described(), "x" * 300)
    assert [path.name for path in store.folder.iterdir()] == [records.LOCK_FILE]


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": 1, "unknown": 2}', "\xff"])
def test_a_damaged_record_is_named_and_in_nobodys_way(store: Store, text: str) -> None:
    for _ in range(2):
        store.create(described()).close()
    path = store.folder / "app-1" / records.RECORD_FILE
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UklError, match=re.escape(str(path))) as caught:
        store.find("app-1")
    assert caught.value.code == "record-invalid"
    found, (wrong,) = store.look()
    assert [one.name for one in found] == ["app-2"]
    assert wrong.code == "record-invalid"
    # Another one can be started all the same, under the next name.
    with closing(store.create(described())) as held:
        assert held.record.name == "app-3"


def test_many_at_once_get_a_name_each(store: Store) -> None:
    held: list[records.Held] = []
    threads = [
        threading.Thread(target=lambda: held.append(store.create(described()))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.record.name for one in held} == {f"app-{n}" for n in range(1, 17)}
    assert all(entry.alive for entry in store.all())
    for one in held:
        one.close()


@pytest.mark.parametrize("how", ["others", "link", "file"])
def test_a_folder_that_is_not_ours_alone_is_refused(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    match how:
        case "others":
            folder.mkdir()
            folder.chmod(0o750)
        case "link":
            (tmp_path / "real").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "real")
        case "file":
            folder.touch(mode=0o700)
    with pytest.raises((UklError, FileExistsError)) as caught:
        records.private(folder)
    if isinstance(caught.value, UklError):
        assert caught.value.code == "runtime-unsafe"


# --- the socket ---


@pytest.fixture
def server(tmp_path: Path) -> Iterator[control.Server]:
    """Return one without a machine; its path is longer than the kernel takes."""
    (tmp_path / "run").mkdir(mode=0o700)
    deep = tmp_path / "run" / ("d" * 120)
    made = control.Server(deep / "app-1.sock")
    yield made
    made.close()


def test_a_socket_is_its_owners(server: control.Server) -> None:
    assert server.path.stat().st_mode & 0o777 == 0o600
    assert server.path.parent.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_answered_is_said(server: control.Server) -> None:
    with control.Client(server.path) as client:
        with pytest.raises(UklError, match="app-1: it is not started yet") as caught:
            client.ask("stop", by="me")
        assert caught.value.code == "machine-refused"
        with pytest.raises(UklError, match="not understood"):
            client.ask("nonsense")
        assert not client.wait(0.1)


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"{}\n", b"\xff\n", b"[" * 100_000 + b"\n", b"x"])
def test_nonsense_is_answered_or_ignored(server: control.Server, line: bytes) -> None:
    folder = os.open(server.path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(f"/proc/self/fd/{folder}/{server.path.name}")
        raw.sendall(line)
        raw.shutdown(socket.SHUT_WR)
        assert b"not understood" in raw.recv(1000)
    os.close(folder)
    with control.Client(server.path) as client, pytest.raises(UklError, match="not started"):
        client.ask("events")


def test_a_socket_that_nobody_listens_on_is_silent(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    for path in (tmp_path / "run" / "app-1.sock", tmp_path / "nowhere" / "app-1.sock"):
        with pytest.raises(UklError, match="app-1 does not answer") as caught:
            control.Client(path)
        assert caught.value.code == "machine-silent"


# --- the commands ---


def machine(place: Place, *words: str, end: str = "spin", text: str = "up\n") -> str:
    """Start a machine in the background and return its name."""
    if not (place.root / "build" / "app").exists():
        place.image(end, text)
    # It ends some time even if the test does not come so far.
    limit = () if "--timeout" in words else ("--timeout", "300")
    code, out, err = place.run("--qemu", "app", "--detach", *limit, *words)
    assert code == 0, err
    return out.strip()


def waits(place: Place, name: str) -> None:
    """Wait until somebody waits for a machine's end."""
    socket_name = Path(told(place, name)["socket"]).name

    def connected() -> bool:
        lines = Path("/proc/net/unix").read_text().splitlines()
        # The one that listens, and one for each connection.
        return sum(line.endswith(f"/{socket_name}") for line in lines) > 1

    wait_for(connected, "ukl wait")


@pytest.fixture(autouse=True)
def nothing_goes_on(place: Place) -> Iterator[None]:
    """End what a test has left."""
    yield
    names = place.ukl("ps", "-q")[1].split() if (place.root / "state").exists() else []
    if names:
        place.ukl("kill", *names)


def told(place: Place, name: str) -> dict[str, Any]:
    """Return what is kept of a machine."""
    code, out, err = place.ukl("inspect", name)
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_a_life_in_the_background(place: Place) -> None:
    name = machine(place, "-p", "0:80")
    assert name == "app-1"
    found = told(place, name)
    assert found["alive"]
    port = found["ports"][0]["host"]
    code, out, _ = place.ukl("ps")
    assert re.search(rf"^app-1 +app +up \d+ s +127\.0\.0\.1:{port}->80/tcp +32 MiB +1", out, re.M)
    assert place.ukl("ps", "-q")[1] == "app-1\n"
    code, out, _ = place.ukl("qmp", "app", "query-status")
    assert json.loads(out)["status"] == "running"
    code, out, _ = place.ukl(
        "qmp", "app", "human-monitor-command", '{"command-line": "info version"}'
    )
    assert re.match(r"\d+\.\d+", out)
    code, out, err = place.ukl("stop", "app")
    assert (code, out) == (0, "app-1\n"), err
    assert gone(found["qemu_pid"])
    assert gone(found["pid"])
    assert place.ukl("ps")[1].splitlines()[1:] == []
    assert re.search(r"^app-1 +app +stopped \(245\) ", place.ukl("ps", "-a")[1], re.M)
    talk = (place.machines / "app-1" / "ukl-run.log").read_text()
    assert "ukl stop: the guest was stopped" in talk
    assert place.ukl("rm", "app-1")[:2] == (0, "app-1\n")
    assert place.ukl("ps", "-a")[1].splitlines()[1:] == []
    assert [path.name for path in (place.root / "runtime").rglob("*.sock")] == []


def test_one_in_the_foreground_is_seen_and_stopped(place: Place) -> None:
    place.image("spin", "up\n")
    with place.start("--qemu", "app", "--name", "mine") as process:
        pid = running(process)
        assert place.ukl("ps", "-q")[1] == "mine\n"
        assert place.ukl("stop", "-t", "0", "mine")[0] == 0
        assert process.wait(ENOUGH_S) == 245
    assert gone(pid)


def test_logs_are_printed_followed_and_cut(place: Place) -> None:
    lines = "".join(f"line {number}\n" for number in range(50))
    name = machine(place, text=lines)
    with place.start("logs", "-f", "-n", "2", name, module="ukl_build.ukl") as process:
        assert process.stdout is not None
        seen = ""
        while "line 49\n" not in seen:
            seen += process.stdout.readline()
        place.ukl("kill", name)
        assert process.wait(ENOUGH_S) == 0
    assert place.ukl("logs", name)[1] == lines
    assert place.ukl("logs", "-n", "1", "app")[1] == "line 49\n"
    assert place.ukl("logs", "-n", "0", "app")[1] == ""
    assert place.ukl("logs", "-n", "1000", "app")[1] == lines


def test_a_log_is_followed_while_somebody_reads(place: Place) -> None:
    name = machine(place)
    with place.start("logs", "-f", name, module="ukl_build.ukl") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        # The machine says nothing any more.
        process.stdout.close()
        assert process.wait(ENOUGH_S) == 0


def test_what_a_machine_takes_is_shown(place: Place) -> None:
    name = machine(place)
    code, out, err = place.ukl("stats", "--json")
    assert code == 0, err
    first = json.loads(out)
    assert first["name"] == name
    # It spins.
    assert first["cpu_s"] > 0
    assert 1 < first["resident_mib"] < 1000
    assert json.loads(place.ukl("stats", "--json", name)[1])["cpu_s"] > first["cpu_s"]
    code, out, _ = place.ukl("stats")
    assert re.search(rf"^{name} +\d+\.\d s +\d+ of 32 MiB", out, re.M)
    assert place.ukl("stats", "other")[0] == 2


def test_a_wait_ends_with_the_machine(place: Place) -> None:
    name = machine(place)
    code, _, err = place.ukl("wait", "--timeout", "0.5", name)
    assert (code, f"error[machine-runs]: {name} still runs after 0.5 s" in err) == (2, True)
    with place.start("wait", name, module="ukl_build.ukl") as process:
        place.ukl("stop", name)
        out, _ = process.communicate(timeout=ENOUGH_S)
    assert (process.returncode, out) == (245, "245\n")
    # What has ended already need not be waited for.
    assert place.ukl("wait", name)[0] == 245


def test_a_status_is_waited_for_that_is_not_kept(place: Place) -> None:
    name = machine(place, "--rm")
    with place.start("wait", name, module="ukl_build.ukl") as process:
        waits(place, name)
        place.ukl("stop", name)
        out, _ = process.communicate(timeout=ENOUGH_S)
    assert (process.returncode, out) == (245, "245\n")
    assert place.ukl("ps", "-a", "-q")[1] == ""


def test_a_status_that_was_never_told_is_an_error(place: Place) -> None:
    name = machine(place)
    with place.start("wait", name, module="ukl_build.ukl") as process:
        waits(place, name)
        os.kill(told(place, name)["pid"], signal.SIGKILL)
        out, err = process.communicate(timeout=ENOUGH_S)
    assert (process.returncode, out) == (245, "")
    assert f"error[guest-stopped]: the guest was stopped: the ukl-run of {name} was killed" in err
    assert place.ukl("wait", name)[0] == 245


def test_a_killed_ukl_run_is_seen_as_such(place: Place) -> None:
    name = machine(place)
    found = told(place, name)
    os.kill(found["pid"], signal.SIGKILL)
    assert gone(found["qemu_pid"])
    assert gone(found["pid"])
    assert "lost: ukl-run was killed, or the disk full" in place.ukl("ps", "-a")[1]
    assert place.ukl("stop", name)[0] == 2
    # Its socket is still there, and is no hindrance.
    assert Path(found["socket"]).exists()
    assert place.ukl("rm", name)[0] == 0
    assert machine(place) == name
    assert place.ukl("ps", "-q")[1] == f"{name}\n"


def test_one_that_does_not_answer_is_killed(place: Place) -> None:
    name = machine(place)
    found = told(place, name)
    os.kill(found["pid"], signal.SIGSTOP)
    with place.start("kill", name, module="ukl_build.ukl") as process:
        assert process.wait(ENOUGH_S) == 0
    assert gone(found["qemu_pid"])
    assert place.ukl("ps", "-q")[1] == ""


def test_what_runs_is_removed_by_force_only(place: Place) -> None:
    name = machine(place)
    code, _, err = place.ukl("rm", name)
    assert (code, f"error[machine-runs]: {name} runs" in err) == (2, True)
    pid = told(place, name)["qemu_pid"]
    assert place.ukl("rm", "-f", name)[:2] == (0, f"{name}\n")
    assert gone(pid)
    assert not (place.machines / name).exists()


def test_all_that_have_ended_are_removed_at_once(place: Place) -> None:
    place.image("power_off", exited(0))
    for _ in range(2):
        place.run("--qemu", "app")
    assert place.ukl("rm")[0] == 2
    assert place.ukl("rm", "--ended")[:2] == (0, "app-1\napp-2\n")
    assert place.ukl("ps", "-a", "-q")[1] == ""


def test_a_record_of_another_version_can_be_removed(place: Place) -> None:
    place.image("power_off", exited(0))
    for _ in range(2):
        assert place.run("--qemu", "app")[0] == 0
    path = place.machines / "app-1" / "machine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}))
    code, out, err = place.ukl("ps", "-a", "-q")
    assert (code, out) == (0, "app-2\n")
    assert f"warning: {path}: unknown key 'new'" in err
    assert place.ukl("logs", "app-1")[0] == 3
    assert place.ukl("rm", "app-1")[:2] == (0, "app-1\n")
    assert place.ukl("ps", "-a", "-q") == (0, "app-2\n", "")


def test_nothing_is_kept_of_a_passing_one(place: Place) -> None:
    place.image("power_off", exited(3))
    assert place.run("--qemu", "app", "--rm")[0] == 3
    assert [path.name for path in place.machines.iterdir()] == [records.LOCK_FILE]
    place.image("spin", "up\n", name="other")
    code, out, err = place.run("--qemu", "other", "--detach", "--rm", "--timeout", "300")
    assert code == 0, err
    assert place.ukl("stop", "-t", "0", out.strip())[0] == 0
    assert [path.name for path in place.machines.iterdir()] == [records.LOCK_FILE]


def test_what_never_ran_leaves_no_record(place: Place) -> None:
    (place.image("power_off") / "app.bzImage").write_bytes(b"x" * 5000)
    assert place.run("--qemu", "app")[0] == 244
    code, out, err = place.run("--qemu", "app", "--detach")
    assert (code, out) == (244, "")
    assert "error[qemu-failed]" in err
    assert place.ukl("ps", "-a", "-q")[1] == ""


def test_a_name_that_is_taken_is_refused(place: Place) -> None:
    machine(place, "--name", "mine")
    code, _, err = place.run("--qemu", "app", "--detach", "--name", "mine")
    assert (code, "error[machine-exists]" in err) == (2, True)


def test_a_hang_in_the_background_is_kept(place: Place) -> None:
    name = machine(place, "--timeout", "1")
    assert place.ukl("wait", name)[1] == "241\n"
    found = told(place, name)
    assert (found["ended"]["kind"], found["ended"]["error"]) == ("hang", "guest-hang")
    assert "EIP=" in (place.machines / name / "console.registers.txt").read_text()
    assert "error[guest-hang]" in (place.machines / name / "ukl-run.log").read_text()


def test_one_failure_does_not_keep_the_others(place: Place) -> None:
    name = machine(place)
    code, out, err = place.ukl("kill", "nobody", name)
    assert (code, out) == (2, f"{name}\n")
    assert "error[machine-unknown]" in err


def test_a_full_disk_does_not_hide_how_it_ended(place: Place) -> None:
    place.image("spin", "up\n")
    with place.start("--qemu", "app") as process:
        running(process)
        # As a full disk, it does not take the file.
        (place.machines / "app-1" / "ended.json").mkdir()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=ENOUGH_S)
    assert process.returncode == 245
    assert "warning: how it ended cannot be kept" in err


MOUNT = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
"""With mounts of its own, as root of its own if need be."""


NEEDS_MOUNT = pytest.mark.skipif(
    subprocess.run([*MOUNT, "true"], capture_output=True, check=False).returncode != 0,
    reason="nothing can be mounted here",
)


@NEEDS_MOUNT
@pytest.mark.parametrize(
    ("size", "status", "said"),
    [
        # Nothing can be written from the start; while it runs; and there is just enough.
        ("4k", 3, r"error\[system\]: /.*machine.json: No space left on device"),
        ("64k", 243, "how it ended cannot be kept: .*No space left on device: '/.*ended.json'"),
        ("256k", 7, "exited with status 7"),
    ],
)
def test_on_a_full_disk_nothing_is_left_running_or_lost(
    place: Place, size: str, status: int, said: str
) -> None:
    place.image("power_off", "x" * 100_000 + "\n" + exited(7))
    (place.root / "state").mkdir()
    (place.root / "tmp" / "mine").touch()
    python = f"{shlex.quote(sys.executable)} -m ukl_build"
    ukl_run, ukl = f"{python}.run.cli", f"{python}.ukl"
    done = subprocess.run(
        [
            *(*MOUNT, "sh", "-c"),
            f"mount -t tmpfs -o size={size} tmpfs state && {{"
            f" {ukl_run} --qemu app > out; echo status $?; {ukl} ps -q; {ukl} ps -a;"
            # What is not needed any more can be removed, and then there is room.
            f" {ukl} rm app-1 && find state -type f && echo x > state/x; }}",
        ],
        cwd=place.root,
        env=place.env,
        capture_output=True,
        text=True,
        timeout=ENOUGH_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stderr), done.stderr
    ended = "exited (7)" if status == 7 else "lost: "
    first, _, app, *rest = done.stdout.splitlines()
    assert (first, ended in app) == (f"status {status}", True), done.stdout
    assert rest == ["app-1", "state/ukl-build/machines/lock"]
    assert [path.name for path in (place.root / "tmp").iterdir()] == ["mine"]


def test_two_users_do_not_see_each_other(place: Place, tmp_path: Path) -> None:
    name = machine(place)
    other = Place(tmp_path / "other")
    (other.root / "runtime").mkdir(parents=True, mode=0o700)
    (other.root / "tmp").mkdir()
    (other.root / "build").symlink_to(place.root / "build")
    assert other.ukl("ps", "-a", "-q")[1] == ""
    assert machine(other) == name
    assert other.ukl("kill", name)[0] == 0
    assert told(place, name)["alive"]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"alive": True, "qemu_pid": None}, "starting"),
        ({"alive": True, "qemu_pid": 1}, "up 5 min"),
        ({"alive": False}, "lost: ukl-run was killed, or the disk full"),
        (
            {"alive": False, "ended": Ended(status=2, text="", error="run-invalid", ended_s=1.0)},
            "run-invalid 5 min ago",
        ),
    ],
)
def test_a_state_is_told_in_a_few_words(tmp_path: Path, entry: dict[str, Any], text: str) -> None:
    record = described(qemu_pid=entry.get("qemu_pid"))
    made = Entry(tmp_path, record, entry["alive"], entry.get("ended"))
    assert lifecycle.state(made, 300.0) == text


def test_a_terminal_is_not_held_by_what_goes_on(place: Place) -> None:
    # What is detached has neither the pipe of standard output nor that of standard error.
    place.image("spin", "up\n")
    with subprocess.Popen(
        ["sh", "-c", f"{sys.executable} -m ukl_build.run.cli --qemu app -d --timeout 300 | cat"],
        cwd=place.root,
        env=place.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        out, _ = process.communicate(timeout=ENOUGH_S)
    assert out == b"app-1\n"
