"""``ppvit doctor``: what a run needs of this machine and project, each with a verdict and a remedy. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ppvit.cli.doctor import machine, packages, project
from ppvit.cli.doctor.finding import Finding
from ppvit.core.errors import PpvitError, told


def examine(params: Path) -> list[Finding]:
    """All checks. None of them ends the others: a check that fails is a problem itself.

    Args:
        params: the parameter file, which may be missing.
    """
    findings, config = project.parameters(params)
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", packages.versions),
        ("device", machine.device),
        ("threads", machine.threads),
        ("memory", machine.memory),
        ("key ring", lambda: project.key_ring(config)),
        ("remotes", project.remotes),
        ("disk", machine.disk),
        ("weights", lambda: project.weights(config)),
        ("extras", packages.extras),
    ]
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:  # what is broken here is what a person came to find out
            line = told(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            findings.append(Finding(name, "problem", line, "" if isinstance(error, PpvitError) else "see the error"))
    return findings
