"""`stoker doctor`: what serves what on this machine and why, and what would make it faster."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import textwrap
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from stoker import __version__

if TYPE_CHECKING:
    from stoker.doctor.finding import Finding

WIDTH = 24  # of the first column


def add_doctor(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    command.add_argument("--json", action="store_true", help="print one JSON object instead")
    command.add_argument("--debug", action="store_true", help="show tracebacks of errors")


def doctor(args: argparse.Namespace) -> int:
    """Print what is found. Returns the exit code, 0."""
    from stoker.doctor.examine import examine

    about = {
        "stoker": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    findings = examine()
    if args.json:
        found = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({**about, "findings": found}, indent=1))
    else:
        print("\n".join(_lines(about, findings)))
    return 0


def _lines(about: dict[str, str], findings: Seq[Finding]) -> list[str]:
    lines = [f"stoker {about['stoker']}, Python {about['python']}, {about['system']}", ""]
    for finding in findings:
        why = f": {finding.why}" if finding.why else ""
        lines.append(f"{finding.subject:<{WIDTH}}{finding.found}{why}")
    advice = dict.fromkeys(finding.advice for finding in findings if finding.advice)
    lines += ["", "what would help" if advice else "nothing more would help"]
    for text in advice:
        lines += textwrap.wrap(text, 96, initial_indent="- ", subsequent_indent="  ")
    return lines
