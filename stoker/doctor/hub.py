"""Caches on disk, and whether the Hugging Face hub can be reached. A token is never shown."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from stoker.doctor.finding import Finding
from stoker.engine.setup.budget import gib
from stoker.ops.native.build import cache_folder

PATIENCE = 1.0  # seconds for the hub's answer
SMALL = 5 << 30  # bytes free, less than most models need


class HubProbe:
    """Asks the hub for an answer, in the background and for no longer than `patience`."""

    def __init__(self, endpoint: str, patience: float = PATIENCE) -> None:
        self.endpoint = endpoint
        self._patience, self._answer = patience, "no answer in time"
        self._until = time.monotonic() + patience
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def answer(self) -> str:
        """ "" if the hub answered, else why not. Waits until `patience` is over, not longer.

        The system's own search for a name knows no time limit; a thread that hangs in it is left.
        """
        self._thread.join(max(0.0, self._until - time.monotonic()))
        return self._answer

    def _ask(self) -> None:
        try:
            request = urllib.request.Request(self.endpoint, method="HEAD")
            with urllib.request.urlopen(request, timeout=self._patience):
                self._answer = ""
        except urllib.error.HTTPError:
            self._answer = ""  # it is there, and says no to this
        except urllib.error.URLError as problem:
            self._answer = _told(problem.reason)
        except (OSError, ValueError) as problem:
            self._answer = _told(problem)


def _told(reason: object) -> str:
    if isinstance(reason, socket.gaierror):
        return "its name is not found"
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, ssl.SSLError):
        return f"its certificate is not accepted ({reason.reason})"
    return str(getattr(reason, "strerror", None) or reason)


def examine_hub(probe: HubProbe | None) -> Iterator[Finding]:
    """The cache folders, the network and the token; `probe` is None if the hub is switched off."""
    from huggingface_hub import constants, get_token

    yield _folder("kernel cache", cache_folder(), lambda path: len([*path.glob("*.so")]), 0)
    yield _folder(
        "model cache",
        Path(constants.HF_HUB_CACHE),
        lambda path: len([*path.glob("models--*")]),
        SMALL,
    )
    yield _network(probe)
    token = get_token() is not None
    where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else constants.HF_TOKEN_PATH
    yield Finding(
        "hub token",
        "present" if token else "none",
        f"from {where}" if token else "gated and private models need one",
        "",
        {"present": token},
    )


def start_probe() -> HubProbe | None:
    """A probe of the hub under way; None if HF_HUB_OFFLINE switches the hub off."""
    from huggingface_hub import constants

    return None if constants.HF_HUB_OFFLINE else HubProbe(constants.ENDPOINT)


def _network(probe: HubProbe | None) -> Finding:
    if probe is None:
        return Finding(
            "network", "off", "HF_HUB_OFFLINE is set: cached models serve", "", {"reachable": None}
        )
    problem = probe.answer()
    facts = {"reachable": not problem, "endpoint": probe.endpoint}
    if not problem:
        return Finding("network", "yes", f"{probe.endpoint} answers", "", facts)
    advice = (
        f"make {probe.endpoint} reachable (a proxy: HTTPS_PROXY, a mirror: HF_ENDPOINT), or take "
        "models from folders and set HF_HUB_OFFLINE=1"
    )
    return Finding("network", "no", f"{probe.endpoint}: {problem}", advice, facts)


def _folder(subject: str, path: Path, count: Callable[[Path], int], least: int) -> Finding:
    """A folder that is written to: what it holds, and the room on its disk."""
    above = next((one for one in (path, *path.parents) if one.is_dir()), Path("/"))
    held, free = (count(path) if path.is_dir() else 0), shutil.disk_usage(above).free
    writable = os.access(above, os.W_OK)
    facts = {"path": str(path), "holds": held, "free_bytes": free, "writable": writable}
    advice = ""
    if not writable:
        variable = "XDG_CACHE_HOME" if least == 0 else "HF_HOME"
        advice = f"make {path} writable, or name another folder in {variable}"
    elif free < least:
        advice = f"free some space for {path}, or name another folder in HF_HOME"
    why = f"holds {held}, {gib(free)} free" + ("" if writable else ", not writable")
    return Finding(subject, str(path), why, advice, facts)
