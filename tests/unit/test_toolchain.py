# SPDX-License-Identifier: Apache-2.0
"""What the compiler cache says of itself."""

from __future__ import annotations

from pathlib import Path

from ukl_build import proc, toolchain


def test_what_the_cache_had_is_counted_while_it_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "a.c"
    source.write_text("int a;\n")
    compiler, log = toolchain.compiler(tmp_path / "cache").counted(tmp_path / "logs" / "x.ccache")
    assert log is not None
    assert not log.read()

    def run(*words: str) -> None:
        proc.run([*compiler.command.split(), *words], cwd=tmp_path, env=compiler.env)

    run("-c", "a.c", "-o", "a.o")
    assert log.read()
    assert str(log) == "0 of 1 cached"
    run("-c", "a.c", "-o", "b.o")
    # Neither is compiled: they count as nothing.
    run("-shared", "a.o", "-o", "a.so")
    run("--version")
    assert log.read()
    assert str(log) == "1 of 2 cached"
    # What is built next begins anew.
    _, again = toolchain.compiler(tmp_path / "cache").counted(tmp_path / "logs" / "x.ccache")
    assert again is not None
    assert not again.read()


def test_without_a_cache_there_is_nothing_to_count(tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path)}
    compiler = toolchain.compiler(tmp_path / "cache", empty)
    assert compiler.counted(tmp_path / "log") == (compiler, None)


def test_a_line_that_is_half_written_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"# a.c\ncache_mi")
    log = toolchain.CacheLog(path)
    assert not log.read()
    with path.open("ab") as file:
        file.write(b"ss\n# \xff.c\ndirect_cache_hit\n")
    assert log.read()
    assert (log.hits, log.misses) == (1, 1)
    path.unlink()
    assert log.read()
