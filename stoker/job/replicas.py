"""Several engines over one job, each in a process pinned to cores of its own.

On a machine with several memory nodes a replica per node keeps every weight and cache block
near the cores that read it. Rows go to whoever has room, so none idles while rows are left; a
row's result depends on its number alone, so it does not matter which replica took it. If a
replica dies, the others get its rows. Called by the command line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.config import EnginePlan
from stoker.engine.gauges import Gauges, ended, read_gauges, summed
from stoker.engine.setup.threads import core_list, default_threads, physical_cores
from stoker.errors import ConfigError, JobError, StokerError
from stoker.job.interrupt import stop_requests
from stoker.job.report import Report
from stoker.job.rows import BadRow, Row
from stoker.ops.native.build import leave_unsaid

if TYPE_CHECKING:
    from stoker.job.job import Progress, Write
    from stoker.job.settings import JobSettings

NODES = Path("/sys/devices/system/node")
LOOK_EVERY = 0.2  # seconds between looks at whether to stop
LEAST, MOST = 16, 1024  # rows a replica holds at most
GAUGES_EVERY = 0.25  # seconds between a replica's messages of how its engine is


def core_groups(replicas: str) -> list[list[int]]:
    """The cores of each replica: "auto" is one replica per memory node, a number is that many.

    The hyperthreads of a physical core stay together, unless there are more replicas than those.

    Raises:
        ConfigError: not a number, or more replicas than cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    nodes = [found for node in memory_nodes() if (found := [c for c in cores if c in node])]
    if replicas == "auto":
        return nodes or [cores]
    if not replicas.isdigit() or int(replicas) < 1:
        raise ConfigError(f"--replicas must be a number of at least 1, or auto, not {replicas!r}")
    count = int(replicas)
    if count > len(cores):
        raise ConfigError(f"--replicas {count} is more than the {len(cores)} cores there are")
    units = [unit for node in nodes or [cores] for unit in physical_cores(node)]
    if count > len(units):
        units = [[core] for unit in units for core in unit]
    ends = [len(units) * at // count for at in range(count + 1)]
    return [[core for unit in units[a:b] for core in unit] for a, b in pairwise(ends)]


def memory_nodes(folder: Path = NODES) -> list[set[int]]:
    """The cores of each memory node, as Linux lists them ("0-3,8-11"); [] where it does not."""
    files = sorted(folder.glob("node[0-9]*/cpulist"))
    return [core_list(file.read_text()) for file in files]


def replica_threads(groups: list[list[int]], threads: int | None) -> list[int]:
    """The threads of each replica: `threads`, or by its cores and its share of the quota."""
    if threads is not None:
        return [threads] * len(groups)
    return [default_threads(cores, share=len(groups)) for cores in groups]


Results = list[tuple[int, dict[str, Any]]]  # number of a row, its result
Message = tuple[Results, Gauges | None]  # None: not read again since the last message


@dataclass
class Replica:
    """A process and what it has to do."""

    process: BaseProcess
    pipe: Connection
    rows: dict[int, Row | BadRow] = field(default_factory=dict)  # in its hands, by number
    gauges: Gauges = field(default_factory=Gauges)  # of its engine, a moment ago
    plan: EnginePlan | None = None  # of its engine, once that is made

    def receive(self) -> Results:
        """Wait for results and return them. The gauges that come with them are kept.

        The first message is the engine's plan, which is kept too, and says that the model is
        loaded; it comes with no results.

        Raises:
            StokerError: what it raised.
            JobError: it has died.
        """
        try:
            message: Message | EnginePlan | StokerError = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.gauges = ended(self.gauges)
            raise ReplicaDiedError(
                f"a replica ended with code {self.process.exitcode}; if memory was short, try "
                "fewer replicas"
            ) from None
        if isinstance(message, StokerError):
            raise message
        if isinstance(message, EnginePlan):
            self.plan = message
            return []
        results, gauges = message
        self.gauges = gauges or self.gauges
        return results


class ReplicaDiedError(JobError):
    """A replica's process is gone."""


@contextlib.contextmanager
def started_replicas(
    model: str, options: dict[str, Any], groups: list[list[int]], settings: JobSettings
) -> Iterator[list[Replica]]:
    """A replica for each group of cores, its model loaded; they end with the context.

    Args:
        model, options: for each replica's `LLM`; its threads follow from its cores if the options
            do not say.
        groups: from `core_groups`.
        settings: the job.

    Raises:
        StokerError: what a replica raised, such as a model that can't be had.
    """
    context = get_context("spawn")
    replicas: list[Replica] = []
    try:
        counts = replica_threads(groups, options.get("threads"))
        level = logging.getLogger("stoker").level
        for number, (cores, threads) in enumerate(zip(groups, counts, strict=True)):
            pipe, theirs = context.Pipe()
            own = {**options, "threads": threads}
            arguments = (theirs, cores, model, own, settings, level, number == 0)
            process = context.Process(target=_replica, args=arguments, daemon=True)
            process.start()
            theirs.close()
            replicas.append(Replica(process, pipe))
        for replica in replicas:
            replica.receive()
        yield replicas
    finally:
        for replica in replicas:
            replica.pipe.close()
            replica.process.kill()  # it holds nothing worth keeping and ignores gentler signals
            replica.process.join()


def replicas_gauges(replicas: Seq[Replica]) -> Gauges:
    """The gauges of all of them together."""
    return summed([replica.gauges for replica in replicas])


def run_replicated(
    replicas: list[Replica], settings: JobSettings, report: Report, progress: Progress
) -> None:
    """As `run_job`, by replicas.

    Raises:
        JobError: the output can't be written, or no replica is left.
        StokerError: what a replica raised for the whole job.
    """
    from stoker.job.output import output_file

    with stop_requests() as stopping, output_file(settings, report, replicas[0].plan) as sink:

        def after_results() -> bool:
            sink.flush()
            progress(report)
            return not stopping()

        _Pool(replicas, sink.remaining(), report).run(sink.write, after_results)
        if stopping():
            raise KeyboardInterrupt


class _Pool:
    """Distributes rows among replicas and collects results."""

    def __init__(
        self, replicas: list[Replica], rows: Iterator[Row | BadRow], report: Report
    ) -> None:
        self._replicas, self._report = list(replicas), report  # those that live
        self._rows = rows
        self._returned: deque[Row | BadRow] = deque()
        self._share = 2 * len(replicas)

    def run(self, write: Write, after_results: Callable[[], bool]) -> None:
        """Until all rows have results, or `after_results` says to leave."""
        for replica in self._replicas:
            self._give(replica)
        while any(replica.rows for replica in self._replicas):
            for pipe in wait([replica.pipe for replica in self._replicas], LOOK_EVERY):
                replica = next(one for one in self._replicas if one.pipe is pipe)
                try:
                    results = replica.receive()
                except ReplicaDiedError:
                    self._bury(replica)
                    continue
                for number, result in results:
                    write(replica.rows.pop(number), result)
                self._give(replica)
            if not after_results():
                return

    def _give(self, replica: Replica) -> None:
        """Send rows to a replica, fewer as fewer are left, so that all replicas end together."""
        total = self._report.total_rows
        left = MOST * self._share if total is None else total - self._report.rows
        room = max(LEAST, min(MOST, left // self._share))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # noticed at its pipe
            while len(replica.rows) < room:
                row = self._returned.popleft() if self._returned else next(self._rows, None)
                if row is None:
                    return
                replica.rows[row.number] = row
                replica.pipe.send(row)

    def _bury(self, replica: Replica) -> None:
        """Requeue a dead replica's rows for the others."""
        self._replicas.remove(replica)
        if not self._replicas:
            raise JobError(
                f"the last replica ended with code {replica.process.exitcode}; if memory was "
                "short, try fewer replicas"
            )
        self._returned.extend(replica.rows.values())
        for other in self._replicas:
            self._give(other)


def _replica(
    pipe: Connection,
    cores: list[int],
    model: str,
    options: dict[str, Any],
    settings: JobSettings,
    level: int,
    first: bool,
) -> None:
    """The process of one replica: rows in, batches of results out, until the pipe closes.

    The log says what is of this level or more; what all have in common, the first says.
    """
    logging.getLogger("stoker").setLevel(level)
    if not first:
        leave_unsaid()
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent is told too, and ends this
        signal.signal(number, signal.SIG_IGN)
    os.sched_setaffinity(0, cores)
    from stoker.job.job import RowRunner
    from stoker.job.prefetch import BATCH, Encoder, PreparedRow
    from stoker.llm.llm import LLM

    results: Results = []
    read = 0.0  # when the gauges were

    def next_rows(may_wait: bool) -> list[PreparedRow] | None:
        send()
        rows: list[Row | BadRow] = []
        try:
            while len(rows) < BATCH and ((may_wait and not rows) or pipe.poll()):
                rows.append(pipe.recv())
        except EOFError:
            return None
        return encoder.encode(rows)

    def send() -> bool:
        nonlocal read
        now = time.monotonic()
        gauges = None
        if now - read >= GAUGES_EVERY or not llm.engine.has_work:  # it may be idle from here on
            gauges, read = read_gauges(llm.engine), now
        if results or (gauges and llm.engine.has_work):
            pipe.send((results, gauges))
            results.clear()
        return True

    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent has exited
        try:
            with LLM(model, **options) as llm:
                llm.engine.require(settings.pooling.task if settings.pooling else "generate")
                llm.engine.check(settings.params)
                runner = RowRunner(
                    llm, settings, lambda row, out: results.append((row.number, out))
                )
                encoder = Encoder(llm, settings)
                pipe.send(llm.plan)
                pipe.send(([], read_gauges(llm.engine)))
                runner.run(next_rows, send)
        except StokerError as problem:
            pipe.send(problem)
