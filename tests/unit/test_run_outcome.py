# SPDX-License-Identifier: Apache-2.0
"""What a machine's traces mean, case by case; test_run_machine.py makes real ones."""

from __future__ import annotations

from typing import Any

import pytest

from ukl_build.errors import CODES
from ukl_build.image import Init
from ukl_build.run.outcome import EXIT_STATUS, GuestError, Kind, Outcome, Record, classify, said

Event = dict[str, object]
STARTED: Event = {"event": "started", "job": "app", "pid": 5}
DONE: Event = {"event": "stopping", "why": "all is done", "ok": True}
BUTTON: Event = {"event": "stopping", "why": "power button", "ok": False}


def exited(**how: object) -> Event:
    """Return the init's report of the application's end."""
    return {"event": "exited", "job": "app", **how}


def ring3(*events: Event, **changes: Any) -> Outcome:
    """Classify an orderly power-off of a guest with our init, but for ``changes``."""
    orderly: dict[str, Any] = {"qemu_status": 0, "shutdown_reason": "guest-shutdown"}
    return classify(Record(init=Init.RING3, events=events, **(orderly | changes)))


def test_the_applications_own_end_counts() -> None:
    assert ring3(STARTED, exited(code=0), DONE) == Outcome(Kind.EXITED, 0)
    assert ring3(STARTED, exited(code=255), DONE).exit_status == 255
    assert ring3(STARTED, exited(signal=9, core=False), DONE) == Outcome(Kind.SIGNALED, 9)
    assert ring3(STARTED, exited(signal=9), DONE).exit_status == 137


def test_an_application_that_ends_when_asked_has_ended() -> None:
    assert ring3(STARTED, BUTTON, exited(signal=15)) == Outcome(Kind.SIGNALED, 15)


def test_other_jobs_do_not_count() -> None:
    other = {"event": "exited", "job": "job0", "code": 1}
    assert ring3(other, STARTED, exited(code=3), DONE) == Outcome(Kind.EXITED, 3)


def test_jobs_alone_succeed_or_not() -> None:
    assert ring3(DONE) == Outcome(Kind.EXITED, 0)
    failed: Event = {"event": "stopping", "why": "a job failed", "ok": False}
    assert ring3(failed) == Outcome(Kind.NOT_STARTED, 0, "a job failed")
    assert ring3(failed).exit_status == 126


@pytest.mark.parametrize(("errno", "status"), [(2, 127), (13, 126), (8, 126)])
def test_an_application_that_is_not_started_ends_as_in_a_shell(errno: int, status: int) -> None:
    failed: Event = {"event": "failed", "job": "app", "step": "exec", "path": "/UKL"}
    outcome = ring3({**failed, "errno": errno}, {**BUTTON, "why": "x"})
    assert outcome.kind is Kind.NOT_STARTED
    assert outcome.exit_status == status
    assert f"exec /UKL (errno {errno})" in str(outcome)


def test_a_job_that_may_fail_is_no_failure() -> None:
    failed: Event = {"event": "failed", "job": "job0", "step": "exec", "errno": 2}
    assert ring3(failed, STARTED, exited(code=0), DONE) == Outcome(Kind.EXITED, 0)
    assert ring3(failed, DONE) == Outcome(Kind.EXITED, 0)
    assert ring3(failed, STARTED).kind is Kind.NO_STATUS


def test_an_init_without_a_configuration_has_started_nothing() -> None:
    failed: Event = {"event": "failed", "job": "init", "step": "config", "errno": 22, "what": "x"}
    assert ring3(failed) == Outcome(Kind.NOT_STARTED, 22, "init: config x (errno 22)")


def test_a_power_off_without_a_word_is_no_success() -> None:
    assert ring3().kind is Kind.NO_STATUS
    assert ring3(STARTED).kind is Kind.NO_STATUS
    assert ring3(STARTED, BUTTON).kind is Kind.NO_STATUS


@pytest.mark.parametrize("code", ["0", None, -1, 256, True, 1.0, [0]])
def test_a_guest_cannot_report_nonsense_as_success(code: object) -> None:
    assert ring3(STARTED, exited(code=code)).kind is Kind.NO_STATUS


def test_the_way_down_is_part_of_the_run() -> None:
    ended = (STARTED, exited(code=0), DONE)
    assert ring3(*ended, panicked=True, qemu_status=1).kind is Kind.PANIC
    assert ring3(*ended, shutdown_reason="guest-panic", qemu_status=1).kind is Kind.PANIC
    assert ring3(*ended, shutdown_reason="guest-reset").kind is Kind.RESET
    assert ring3(*ended, gave_up=True, shutdown_reason="host-qmp-quit").kind is Kind.HANG
    assert ring3(*ended, starved=True, shutdown_reason="host-qmp-quit").kind is Kind.HANG
    assert ring3(*ended, qemu_status=-11, shutdown_reason=None).kind is Kind.QEMU_FAILED
    assert ring3(*ended, qemu_status=1, shutdown_reason=None).kind is Kind.QEMU_FAILED


def test_a_panic_before_a_deadline_is_a_panic() -> None:
    assert ring3(panicked=True, gave_up=True, qemu_status=1).kind is Kind.PANIC


def test_the_console_explains_a_panic_but_is_none() -> None:
    console = "x\n[    1.2] Kernel panic - not syncing: Attempted to kill init!\n"
    assert ring3(panicked=True, console=console).why == "Attempted to kill init!"
    assert ring3(shutdown_reason="guest-reset", console=console).kind is Kind.PANIC
    # A program may print such a line; a machine that then goes down in order has not panicked.
    assert ring3(STARTED, exited(code=0), console=console) == Outcome(Kind.EXITED, 0)


def test_a_console_line_cannot_stand_for_the_init() -> None:
    console = "ukl: application exited with status 0\n"
    assert ring3(STARTED, console=console).kind is Kind.NO_STATUS


def test_being_stopped_is_no_success() -> None:
    assert ring3(STARTED, shutdown_reason="host-qmp-quit").kind is Kind.STOPPED
    assert ring3(STARTED, shutdown_reason=None).kind is Kind.QEMU_FAILED


def test_qemu_that_never_came_up_is_told_by_its_last_words() -> None:
    record = Record(Init.RING3, 1, qemu_words="warning\nqemu: no such thing\n", connected=False)
    assert classify(record) == Outcome(Kind.QEMU_FAILED, why="qemu: no such thing")
    assert "status 1 and no word" in str(classify(Record(Init.DIRECT, 1, connected=False)))


def test_exit_statuses_differ_and_stay_clear_of_the_shells() -> None:
    statuses = list(EXIT_STATUS.values())
    assert len(set(statuses)) == len(statuses)
    # 128+N goes up to SIGRTMAX, 64; 255 is what ssh and exit(-1) use.
    assert all(128 + 64 < status < 255 for status in statuses)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.EXITED])
def test_every_failure_has_a_code_a_hint_and_words(kind: Kind) -> None:
    if kind is Kind.SIGNALED:
        return
    error = GuestError(Outcome(kind, 1, "because"))
    assert error.code in CODES
    assert error.hint
    assert "because" in str(error)
    assert error.exit_status == Outcome(kind, 1).exit_status


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ((), []),
        (("b", "d"), ["b", "d"]),
        (("[ab]", "*"), ["a", "b"]),
        (("d", "b"), ["d"]),
        (("b", "b"), ["b"]),
        (("c", "b"), []),
        (("", "d"), ["", "d"]),
    ],
)
def test_expected_lines_are_found_in_their_order(
    expected: tuple[str, ...], found: list[str]
) -> None:
    assert said("a\r\nb\r\n\r\nc d\r\nd\n", expected) == found
