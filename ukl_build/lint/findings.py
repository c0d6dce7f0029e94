# SPDX-License-Identifier: Apache-2.0
"""What the lint found, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ukl_build.elf.rules import RULES, Severity
from ukl_build.model import Model


class Finding(Model):
    """One place, or several of one kind, where an input breaks a rule."""

    code: str
    """Key of :data:`ukl_build.elf.rules.RULES`."""
    severity: Severity
    file: str
    """As it was given."""
    member: str | None = None
    """Member of an archive; none if the finding is of the whole file."""
    section: str | None = None
    section_offset: int | None = None
    """Bytes from the start of the section."""
    function: str | None = None
    """Function or variable around the place."""
    offset: int | None = None
    """Bytes from the start of the function."""
    what: str
    why: str
    """Why it matters."""
    do: str
    """What to do."""
    count: int = 1
    """How many places of this kind there are, of which this is the first."""

    @property
    def place(self) -> str:
        """Return ``file(member):function+offset``, or as much of it as is known."""
        text = f"{self.file}({self.member})" if self.member is not None else self.file
        if self.function is not None:
            text += f":{self.function}" + (f"+{self.offset:#x}" if self.offset is not None else "")
        elif self.section is not None:
            text += f":{self.section}"
            text += f"+{self.section_offset:#x}" if self.section_offset is not None else ""
        return text

    def __str__(self) -> str:
        said = f"{self.what}; {self.why}; {self.do}"
        return f"{self.place}: {self.severity}: {said} [{self.code}]"


class Counts(Model):
    """How many findings there are of each severity."""

    error: int
    warning: int
    note: int

    def __str__(self) -> str:
        return ", ".join(
            f"{number} {name}{'' if number == 1 else 's'}"
            for name, number in self.model_dump().items()
            if number or name == "error"
        )


class Report(Model):
    """All findings of a run; what ``--json`` prints."""

    schema_: Literal[1] = Field(default=1, serialization_alias="schema")
    program: bool
    """Whether the files were looked at as the link of a whole program."""
    units: int
    """How many objects and members were looked at."""
    counts: Counts
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, findings: Sequence[Finding], *, program: bool, units: int) -> Report:
        """Sort findings: those that stop the link come first, each kind in the order found."""
        order = list(Severity)
        found = tuple(sorted(findings, key=lambda one: order.index(one.severity)))
        number = Counter(one.severity for one in found)
        counts = Counts(**{severity.value: number[severity] for severity in Severity})
        return cls(program=program, units=units, counts=counts, findings=found)

    def of_severity(self, severity: Severity) -> list[Finding]:
        """Return the findings of one severity."""
        return [one for one in self.findings if one.severity is severity]

    def without(self, severity: Severity) -> Report:
        """Leave out the findings of one severity."""
        left = [one for one in self.findings if one.severity is not severity]
        return Report.of(left, program=self.program, units=self.units)

    def json_text(self) -> str:
        """Return the report as JSON; docs/ukl-lint.md describes it."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


def finding(
    code: str,
    file: str,
    what: str,
    *,
    member: str | None = None,
    do: str = "",
    why: str = "",
    count: int = 1,
) -> Finding:
    """Return a finding of a whole file or member.

    :param do: in place of the rule's; ``why`` as well.
    """
    rule = RULES[code]
    return Finding(
        code=code,
        severity=rule.severity,
        file=file,
        member=member,
        what=what,
        why=why or rule.why,
        do=do or rule.do,
        count=count,
    )
