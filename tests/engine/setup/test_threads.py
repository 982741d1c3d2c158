"""The default number of threads, on machines made of files."""

import ctypes
import os
import subprocess
import sys
import threading

import pytest
import torch

from stoker import LLM
from stoker.engine.setup.threads import cpu_quota, default_threads, physical_cores
from stoker.errors import ConfigError
from stoker.job import replicas
from stoker.job.replicas import core_groups, replica_threads


@pytest.fixture(autouse=True)
def no_wish(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def siblings(lists):
    """The topology of cores: core -> list of its siblings."""
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {folder.format(core): text for core, text in lists.items()}


HYPER = siblings({core: f"{core % 4},{core % 4 + 4}" for core in range(8)})


def test_hyperthreads_of_a_core_count_once(machine):
    root = machine(HYPER)
    assert physical_cores(range(8), root) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert default_threads(range(8), root=root) == 4
    assert default_threads([1, 5], root=root) == 1
    assert default_threads([1, 2, 5], root=root) == 2
    pairs = machine(siblings({core: f"{core // 2 * 2}-{core // 2 * 2 + 1}" for core in range(4)}))
    assert physical_cores(range(4), pairs) == [[0, 1], [2, 3]]


def test_cores_that_nothing_is_known_of_count_each(tmp_path):
    assert default_threads(range(6), root=tmp_path) == 6


def test_the_affinity_is_respected(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 6, 7})
    assert default_threads(root=machine(HYPER)) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert default_threads(root=machine(HYPER)) == 4


@pytest.mark.parametrize(
    ("wish", "count"), [("3", 3), ("3,2", 3), (" 6", 6), ("64", 8), ("0", 4), ("", 4), ("many", 4)]
)
def test_omp_num_threads_decides(wish, count, machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    assert default_threads(range(8), root=machine(HYPER)) == count


V2 = {"proc/self/cgroup": "0::/jobs/mine"}
V1 = {"proc/self/cgroup": "3:memory:/m\n2:cpuset:/s\n1:cpu,cpuacct:/jobs/mine"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        (V2, None),
        (V2 | {"sys/fs/cgroup/jobs/mine/cpu.max": "max 100000"}, None),
        (V2 | {"sys/fs/cgroup/jobs/mine/cpu.max": "250000 100000"}, 2.5),
        (V2 | {"sys/fs/cgroup/jobs/cpu.max": "150000 50000"}, 3),
        (V2 | {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),  # a container's own view
        (V2 | {"sys/fs/cgroup/unified/jobs/cpu.max": "100000 100000"}, 1),
        (
            V2
            | {
                "sys/fs/cgroup/jobs/mine/cpu.max": "300000 100000",
                "sys/fs/cgroup/jobs/cpu.max": "200000 100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "0::/../../other",
                "sys/fs/cgroup/cpu.max": "200000 100000",
            },
            2,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/jobs/mine/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/jobs/mine/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us": "100000",
            },
            1.5,
        ),
    ],
)
def test_quotas_of_cgroups(files, quota, machine):
    assert cpu_quota(machine({"proc/self/stat": ""} | files)) == quota


def test_a_quota_limits_the_threads(machine):
    root = machine(HYPER | V2 | {"sys/fs/cgroup/cpu.max": "250000 100000"})
    assert default_threads(range(8), root=root) == 2
    assert default_threads([0, 4], root=root) == 1
    assert default_threads(range(8), share=2, root=root) == 1
    root = machine({"sys/fs/cgroup/cpu.max": "20000 100000"})
    assert default_threads(range(8), root=root) == 1


def test_replicas_keep_hyperthreads_together(machine, monkeypatch):
    root = machine(HYPER)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(replicas, "physical_cores", lambda cores: physical_cores(cores, root))
    monkeypatch.setattr(replicas, "memory_nodes", lambda: [])
    assert core_groups("2") == [[0, 4, 1, 5], [2, 6, 3, 7]]
    assert core_groups("3") == [[0, 4], [1, 5], [2, 6, 3, 7]]
    assert [len(group) for group in core_groups("8")] == [1] * 8
    assert replica_threads([[0], [1]], None) == [1, 1]
    assert replica_threads([[0], [1]], 3) == [3, 3]


def test_an_engine_takes_its_threads(text_model, monkeypatch):
    before = torch.get_num_threads()
    try:
        with LLM(text_model, threads=3) as llm:
            assert (llm.plan.threads, torch.get_num_threads()) == (3, 3)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with LLM(text_model) as llm:
            assert (llm.plan.threads, torch.get_num_threads()) == (1, 1)
    finally:
        torch.set_num_threads(before)
    for wrong in (0, -1, 1.5, "2"):
        with pytest.raises(ConfigError, match="threads must be a whole number"):
            LLM(text_model, threads=wrong)


def openmp():
    """The OpenMP library that torch and the C kernels share."""
    with open("/proc/self/maps") as maps:
        found = {line.split()[-1] for line in maps if "libgomp" in line}
    return ctypes.CDLL(found.pop()) if len(found) == 1 else None


@pytest.mark.skipif(openmp() is None, reason="another OpenMP library")
def test_the_number_holds_in_every_thread_that_drives_the_engine(text_model):
    before, seen = torch.get_num_threads(), []
    try:
        with LLM(text_model, threads=3) as llm:

            def drive():
                llm.generate("hello")
                seen.append(openmp().omp_get_max_threads())

            worker = threading.Thread(target=drive)
            worker.start()
            worker.join()
    finally:
        torch.set_num_threads(before)
    assert seen == [3]


def test_the_tokenizer_starts_no_threads(text_model):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from stoker.engine.text.tokenizer import TextCodec\n"
        "codec = TextCodec(Path(sys.argv[1])); codec.tokenizer\n"
        "count = lambda: len(os.listdir('/proc/self/task')); before = count()\n"
        "codec.encode('hello world ' * 100); assert count() == before, (before, count())"
    )
    clean = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    subprocess.run([sys.executable, "-c", code, text_model], check=True, env=clean)
