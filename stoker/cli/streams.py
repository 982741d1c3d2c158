"""Standard streams that the commands can print to, whatever the process was started with.

A daemon may start a command without any, and a locale or PYTHONIOENCODING may give them an encoding
that lacks characters of an answer or of a file's name. Knows no command. Called first by main.py.
"""

from __future__ import annotations

import io
import os
import sys

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by file descriptor


def prepare_streams() -> None:
    """Open what is closed on the null device, and let nothing that is printed fail.

    A closed descriptor would go to the next file that is opened, so that messages of libraries
    would be written into a job's results. What the encoding of an output lacks is escaped, as
    Python does on standard error: "caf\\xe9", "\\u2026".
    """
    for fd, (name, mode) in enumerate(STREAMS):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(_null(fd), mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _null(fd: int) -> int:
    """A descriptor of the null device: `fd` if that is free, else another."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != fd:
        try:
            os.fstat(fd)
        except OSError:  # it is free
            os.dup2(null, fd)
            os.close(null)
            return fd
        return null
    os.set_inheritable(null, True)  # as `dup2` does, for processes that this one starts
    return null
