# SPDX-License-Identifier: Apache-2.0
"""What Python writes for the init is what the init's own parser, in C, reads."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from ukl_build import initconf
from ukl_build.initconf import InitConf, Job, Mode, Mount, Static, render, render_overlay
from ukl_build.stages import userspace

HERE = Path(__file__).parent
UNLIMITED = -1  # as the dumping program prints 2^64-1


@dataclass(frozen=True)
class Reader:
    """The init's parser as a program of the host."""

    folder: Path
    program: Path

    def read(self, conf: str, *, run: str | None = None, cmdline: str = "") -> dict[str, Any]:
        """Return what it understood, or its message under ``wrong``."""
        (self.folder / "init.conf").write_text(conf)
        (self.folder / "run.conf").unlink(missing_ok=True)
        if run is not None:
            (self.folder / "run.conf").write_text(run)
        (self.folder / "cmdline").write_text(cmdline + "\n")
        done = subprocess.run(
            [self.program], cwd=self.folder, capture_output=True, check=False, timeout=10
        )
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        assert done.returncode == (1 if "wrong" in found else 0)
        return found


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Compile the parser with names of files that a test can write.

    Short ones, as in a guest: a message has so much room for them.
    """
    folder = tmp_path_factory.mktemp("conf")
    program = folder / "conf_dump"
    names = {"CONF_FILE": "init.conf", "RUN_FILE": "run.conf", "COMMAND_LINE": "cmdline"}
    source = userspace.INIT_SOURCE
    subprocess.run(
        [
            *("gcc", *userspace.CFLAGS, "-I", source, "-o", program),
            *(f'-D{name}="{file}"' for name, file in names.items()),
            *(HERE / "conf_dump.c", source / "conf.c", source / "lib.c"),
        ],
        check=True,
    )
    return Reader(folder, program)


AWKWARD = (
    "",
    " ",
    "a b",
    " leading and trailing ",
    "new\nline",
    "tab\there",
    "back\\slash",
    "\\n is not a newline",
    "\\",
    "#no comment",
    "clear=arg",
    "double \" and single ' quote",
    "comma,and=equals",
    "Grüße, 世界",
    "\x01\x7f\x1b[31m",
    "--",
)


def latin(text: str) -> str:
    """Return a string as the init's JSON shows it: bytes, not characters."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def test_arguments_arrive_byte_for_byte(reader: Reader) -> None:
    got = reader.read(render(InitConf(argv=AWKWARD)))
    assert got["arg"] == [latin(text) for text in AWKWARD]


def test_words_of_a_job_arrive_byte_for_byte(reader: Reader) -> None:
    job = Job(("/bin/a b", *AWKWARD), name="a name, with\nall = sorts")
    got = reader.read(render(InitConf(jobs=(job,))))["jobs"][0]
    assert got["argv"] == [latin(text) for text in job.argv]
    assert got["name"] == job.name


def test_random_arguments_arrive(reader: Reader) -> None:
    source = random.Random(1)
    argv = tuple(
        "".join(chr(source.randrange(1, 0x250)) for _ in range(source.randrange(30)))
        for _ in range(500)
    )
    got = reader.read(render(InitConf(argv=argv, jobs=(Job(("/x", *argv)),))))
    assert got["arg"] == [latin(text) for text in argv]
    assert got["jobs"][0]["argv"] == ["/x", *(latin(text) for text in argv)]


def test_everything_else_arrives(reader: Reader) -> None:
    conf = InitConf(
        app="/opt/my app",
        env={"A": "1", "B": "x=y", "EMPTY": ""},
        cwd="/var/lib",
        uid=1000,
        gid=initconf.MAX_ID,
        groups=(5, 6),
        hostname="guest",
        limits={"nofile": (100, 200), "core": (0, None), "memlock": (None, None)},
        modules=("/lib/modules/a b.ko", "/lib/modules/c.ko"),
        sysctls={"net.core.somaxconn": "4096", "kernel.printk": "4 4 1 7"},
        mounts=(Mount("/dev/vda", "/data", "ext4", "ro,noatime"), Mount("x", "/y", "9p")),
        address=Static(IPv4Interface("10.1.2.3/8"), IPv4Address("10.0.0.1")),
        dns=(IPv4Address("9.9.9.9"), IPv4Address("1.1.1.1")),
        interface="eth7",
        dhcp_wait_s=3,
        stop_wait_s=4,
        entropy_wait_s=0,
        jobs=(
            Job(("/a",)),
            Job(("/b", "c"), Mode.BESIDE, uid=3, gid=4, timeout_s=5, any_end=True, name="n"),
            Job(("/d",), Mode.AFTER),
        ),
    )
    plain = {"name": "job0", "mode": 0, "any": False, "uid": 0, "gid": 0, "timeout": 0}
    assert reader.read(render(conf)) == {
        "app": "/opt/my app",
        "cwd": "/var/lib",
        "hostname": "guest",
        "interface": "eth7",
        "arg": [],
        "env": ["A=1", "B=x=y", "EMPTY="],
        "module": ["/lib/modules/a b.ko", "/lib/modules/c.ko"],
        "sysctl": ["net.core.somaxconn=4096", "kernel.printk=4 4 1 7"],
        "mount": ["/dev/vda /data ext4 ro,noatime", "x /y 9p"],
        "uid": 1000,
        "gid": initconf.MAX_ID,
        "groups": [5, 6],
        "limits": {"4": [0, UNLIMITED], "7": [100, 200], "8": [UNLIMITED, UNLIMITED]},
        "ip": [2, "10.1.2.3", 8, "10.0.0.1"],
        "lease": ["0.0.0.0", 0],
        "watchdog": 0,
        "status": "",
        "reset": 0,
        "dns": ["9.9.9.9", "1.1.1.1"],
        "waits": [3000, 4000, 0],
        "jobs": [
            {**plain, "argv": ["/a"], "": 0},
            {
                **{"name": "n", "mode": 1, "any": True, "uid": 3, "gid": 4, "timeout": 5000},
                **{"argv": ["/b", "c"], "": 0},
            },
            {**plain, "name": "job2", "mode": 2, "argv": ["/d"], "": 0},
        ],
    }


def test_every_limit_has_the_kernels_number(reader: Reader) -> None:
    for number, name in enumerate(initconf.LIMITS):
        got = reader.read(render(InitConf(limits={name: (1, 2)})))
        assert got["limits"] == {str(number): [1, 2]}, name


def test_one_run_lays_over_the_image(reader: Reader) -> None:
    image = render(InitConf(argv=("/UKL", "old"), env={"A": "1", "B": "2"}, jobs=(Job(("/old",)),)))
    run = render_overlay(argv=("/UKL", "new"), env={"B": "3", "AB": "4"}, jobs=(), app="/other")
    got = reader.read(image, run=run)
    assert got["arg"] == ["/UKL", "new"]
    assert got["env"] == ["A=1", "B=3", "AB=4"]
    assert (got["jobs"], got["app"]) == ([], "/other")


def test_a_run_replaces_what_is_mounted(reader: Reader) -> None:
    image = render(InitConf(mounts=(Mount("/dev/vda", "/a", "ext4"),)))
    assert reader.read(image, run=render_overlay(mounts=()))["mount"] == []
    got = reader.read(image, run=render_overlay(mounts=(Mount("share0", "/b", "9p", "ro,x"),)))
    assert got["mount"] == ["share0 /b 9p ro,x"]
    assert reader.read(image, run=render_overlay(app="/x"))["mount"] == ["/dev/vda /a ext4"]


def test_a_cleared_job_leaves_no_option_behind(reader: Reader) -> None:
    image = render(InitConf(jobs=(Job(("/old",), Mode.AFTER, uid=7, any_end=True, name="n"),)))
    got = reader.read(image, run=render_overlay(jobs=(Job(("/new",)),)))
    assert got["jobs"][0] == {
        **{"name": "job0", "mode": 0, "any": False, "uid": 0, "gid": 0, "timeout": 0},
        **{"argv": ["/new"], "": 0},
    }


def test_the_command_line_has_the_last_word(reader: Reader) -> None:
    got = reader.read(
        render(InitConf()),
        cmdline='console=ttyS0 ukl.ip=10.0.0.5/24,10.0.0.1 ukl.env="A=b c" ukl.uid=7 '
        "ukl.lease=10.0.2.15/24 uklnot=1 quiet ukl.stop-wait=1 ukl.watchdog=9 "
        "ukl.status=/dev/ttyS1 ukl.end=reset -- ukl.uid=8 ukl.end=off",
    )
    assert got["ip"] == [2, "10.0.0.5", 24, "10.0.0.1"]
    assert got["lease"] == ["10.0.2.15", 24]
    assert got["env"][-1] == "A=b c"
    assert got["uid"] == 7
    assert got["waits"][1] == 1000
    assert got["watchdog"] == 9000 and got["status"] == "/dev/ttyS1"
    assert got["reset"] == 1


@pytest.mark.parametrize(
    "line",
    [
        *("unknown=1", "novalue", "uid=-1", "uid=4294967295", "uid=99999999999999999999", "uid="),
        *("gid=1x", "rlimit=nofile:1", "rlimit=nofile:3:2", "rlimit=nofiles:1:1", "env=NOVALUE"),
        *(
            "env==x",
            "ip=10.0.0.1",
            "ip=10.0.0.1/33",
            "ip=10.0.0.256/8",
            "ip=1.2.3/8",
            "ip=dhcp,1",
            "lease=10.0.2.15",
        ),
        *("dns=1.2.3.4.5", "arg=\\q", "arg=\\x4", "arg=\\x00", "arg=tail\\", "clear=app"),
        *("job=before", "job=later /x", "job=before,uid=x /x", "job=before,what /x"),
        *("job=before  /x", "job=before /x ", "job=before \\e", "job=before,any=1 /x"),
        *("stop-wait=x", "stop-wait=1000001", "group=x", "end=on"),
    ],
)
def test_a_mistake_is_refused_with_its_line(reader: Reader, line: str) -> None:
    got = reader.read(f"# comment\n\napp=/UKL\n{line}\n")
    assert got == {"wrong": f"init.conf line 4: cannot use '{line}'"}


@pytest.mark.parametrize("word", ["ukl.uid=x", "ukl.what=1", "ukl.uid"])
def test_a_mistake_on_the_command_line_is_refused(reader: Reader, word: str) -> None:
    got = reader.read("", cmdline=f"quiet {word} panic=-1")
    assert got == {"wrong": f"kernel command line: cannot use '{word[4:]}'"}


@pytest.mark.parametrize("key", ["arg", "env", "job", "module", "sysctl", "group", "dns", "mount"])
def test_more_than_fits_is_refused_by_both(reader: Reader, key: str) -> None:
    value = {"env": "N{}=x", "job": "before /{}", "group": "{}", "dns": "1.2.3.4"}.get(key, "{}")
    most = {"arg": 1024, "env": 1024, "job": 512, "dns": 3}.get(key, 64)
    lines = [f"{key}={value.format(number)}\n" for number in range(most + 1)]
    assert "wrong" not in reader.read("".join(lines[:-1]))
    assert f"line {most + 1}:" in reader.read("".join(lines))["wrong"]
    numbers = range(most + 1)
    too_many = {
        "arg": InitConf(argv=("x",) * (most + 1)),
        "env": InitConf(env={f"N{number}": "" for number in numbers}),
        "job": InitConf(jobs=(Job(("/x",)),) * (most + 1)),
        "module": InitConf(modules=tuple(f"/{number}" for number in numbers)),
        "sysctl": InitConf(sysctls={f"n{number}": "" for number in numbers}),
        "group": InitConf(groups=tuple(numbers)),
        "dns": InitConf(dns=(IPv4Address("1.2.3.4"),) * (most + 1)),
        "mount": InitConf(mounts=(Mount("a", "/b", "c"),) * (most + 1)),
    }[key]
    with pytest.raises(ValueError, match="more than the init takes"):
        render(too_many)


def test_a_file_that_is_too_large_is_refused_by_both(reader: Reader) -> None:
    argv = ("x" * 1000,) * 600
    with pytest.raises(ValueError, match="more than the init reads"):
        render(InitConf(argv=argv))
    assert "cannot read it (errno 27)" in reader.read("#" * 600_000)["wrong"]


def test_all_that_python_writes_fits(reader: Reader) -> None:
    # Both files nearly full: long arguments in one, jobs of many short words in both.
    words = ("/x", *("y",) * 120_000)
    image = render(InitConf(argv=("x" * 250,) * 1000, jobs=(Job(words),)))
    run = render_overlay(jobs=(Job(words), Job(words)))
    assert len(image) > 480_000
    assert len(run) > 480_000
    assert len(reader.read(image, run=run)["jobs"][1]["argv"]) == len(words)


@pytest.mark.parametrize(
    "conf",
    [
        InitConf(argv=("a\0b",)),
        InitConf(env={"A=B": ""}),
        InitConf(env={"": "x"}),
        InitConf(uid=-1),
        InitConf(gid=initconf.MAX_ID + 1),
        InitConf(limits={"nofile": (2, 1)}),
        InitConf(limits={"nofile": (None, 1)}),
        InitConf(limits={"files": (1, 1)}),
        InitConf(mounts=(Mount("a b", "/c", "d"),)),
        InitConf(jobs=(Job(()),)),
        InitConf(stop_wait_s=-1),
    ],
)
def test_python_refuses_what_the_init_would(conf: InitConf) -> None:
    with pytest.raises(ValueError, match=r".+"):
        render(conf)
