"""How much memory a CPU's cache may count on, on machines made of files."""

import pytest

from stoker import LLM
from stoker.engine.setup import sizing
from stoker.engine.setup.host_memory import free_memory
from stoker.errors import ConfigError

MIB = 1 << 20
HOST = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:   {64 * 1024 * 1024} kB"}  # 64 GiB


def test_without_a_limit_it_is_what_the_host_has_free(machine):
    assert free_memory(machine(HOST)) == 64 << 30
    group = "sys/fs/cgroup/job"
    files = {"proc/self/cgroup": "0::/job", f"{group}/memory.max": "max"}
    assert free_memory(machine({**HOST, **files, f"{group}/memory.current": "5"})) == 64 << 30


def test_a_containers_limit_counts(machine):
    # the group around it sets the limit; cached pages of files go when memory is wanted
    group = "sys/fs/cgroup/pod"
    files = {
        "proc/self/cgroup": "0::/pod/job",
        f"{group}/job/memory.max": "max",
        f"{group}/job/memory.current": str(300 * MIB),
        f"{group}/memory.max": str(2048 * MIB),
        f"{group}/memory.current": str(1024 * MIB),
        f"{group}/memory.stat": f"anon 1\nactive_file 7\ninactive_file {512 * MIB}\nslab 3",
    }
    assert free_memory(machine({**HOST, **files})) == 1536 * MIB


def test_version_1_in_a_container_that_sees_the_outermost_folder_alone(machine):
    group = "sys/fs/cgroup/memory"
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc",
        f"{group}/memory.limit_in_bytes": str(1000 * MIB),
        f"{group}/memory.usage_in_bytes": str(400 * MIB),
        f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}",
    }
    assert free_memory(machine({**HOST, **files})) == 700 * MIB
    files[f"{group}/memory.limit_in_bytes"] = "9223372036854771712"  # how none is written
    assert free_memory(machine({**HOST, **files})) == 64 << 30
    files[f"{group}/memory.limit_in_bytes"] = str(100 * MIB)  # less than is used by now
    assert free_memory(machine({**HOST, **files})) == 0


def test_the_cache_is_sized_by_it(monkeypatch, text_model):
    monkeypatch.setattr(sizing, "free_memory", lambda: MIB)
    assert LLM(text_model, threads=1).plan.cache_memory <= MIB // 4
    monkeypatch.setattr(sizing, "free_memory", lambda: 0)
    with pytest.raises(ConfigError, match="set a smaller max_context"):
        LLM(text_model, threads=1)


@pytest.mark.parametrize("blocks", [10**11, 10**18])
def test_more_than_the_system_gives(text_model, blocks):
    with pytest.raises(ConfigError, match=rf"cache of {blocks} blocks .* lower num_blocks"):
        LLM(text_model, threads=1, num_blocks=blocks)
