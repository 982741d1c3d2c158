"""Several engines over one job: shares of the cores, equal results, a replica that dies."""

import json
import os
import signal

import pytest

from stoker import SamplingParams
from stoker.errors import ConfigError, JobError, ModelError
from stoker.job.job import JobSettings, prepare_job, run_job
from stoker.job.replicas import (
    core_groups,
    memory_nodes,
    replicas_gauges,
    run_replicated,
    started_replicas,
)
from stoker.llm.llm import LLM

CORES = sorted(os.sched_getaffinity(0))
GROUPS = [CORES[:1], CORES[-1:]]  # the same core twice, where there is just one


def test_cores_are_shared_out():
    assert sorted(core for group in core_groups("auto") for core in group) == CORES
    assert core_groups("1") == [CORES]
    most = core_groups(str(len(CORES)))
    assert sorted(most) == [[core] for core in CORES]


@pytest.mark.parametrize(
    ("value", "message"), [("0", "at least 1"), ("two", "or auto"), ("9999", "more than the")]
)
def test_impossible_numbers(value, message):
    with pytest.raises(ConfigError, match=message):
        core_groups(value)


def test_memory_nodes_as_linux_lists_them(tmp_path):
    for node, cores in ((0, "0-2,8\n"), (1, "3,5-6\n")):
        folder = tmp_path / f"node{node}"
        folder.mkdir()
        (folder / "cpulist").write_text(cores)
    assert memory_nodes(tmp_path) == [{0, 1, 2, 8}, {3, 5, 6}]
    assert memory_nodes(tmp_path / "none") == []


def job(tmp_path, name):
    source = tmp_path / "rows.jsonl"
    if not source.exists():
        lines = [json.dumps({"prompt": f"hello {number}"}) for number in range(60)]
        lines[7] = "{"
        source.write_text("\n".join(lines) + "\n")
    params = SamplingParams(temperature=1, max_tokens=6, ignore_eos=True)
    return JobSettings(source, tmp_path / name, params, seed=3, raw=True)


def rows_of(settings):
    rows = [json.loads(line) for line in settings.output.read_text().splitlines()]
    return sorted(
        (row["result"]["row"], row["result"].get("text"), row["result"]["status"]) for row in rows
    )


@pytest.fixture
def alone(tmp_path, text_model):
    """The rows as one engine does them."""
    settings = job(tmp_path, "alone.jsonl")
    with LLM(text_model) as llm:
        run_job(llm, settings, prepare_job(settings), lambda report: None)
    return rows_of(settings)


def test_two_replicas_write_what_one_engine_writes(tmp_path, text_model, alone):
    settings = job(tmp_path, "two.jsonl")
    report = prepare_job(settings)
    with started_replicas(text_model, {}, GROUPS, settings) as replicas:
        run_replicated(replicas, settings, report, lambda report: None)
    assert rows_of(settings) == alone
    assert (report.rows, report.failed_rows) == (60, 1)
    told = json.loads((tmp_path / "two.jsonl.stoker" / "job.json").read_text())
    assert told["plan"] == replicas[0].plan.described()
    assert told["plan"]["num_blocks"] >= 1
    assert not any(replica.process.is_alive() for replica in replicas)


def test_a_dead_replicas_rows_go_to_the_other(tmp_path, text_model, alone):
    settings = job(tmp_path, "killed.jsonl")
    with started_replicas(text_model, {}, GROUPS, settings) as replicas:
        victims = [replicas[0].process.pid]

        def kill_once(report):
            if victims:
                os.kill(victims.pop(), signal.SIGKILL)

        run_replicated(replicas, settings, prepare_job(settings), kill_once)
        gauges = replicas_gauges(replicas)
    assert rows_of(settings) == alone
    assert gauges.engines == 1
    assert gauges.decode_tokens > 0
    assert (gauges.running, gauges.held_blocks) == (0, 0)


def test_when_all_have_died_the_job_says_so(tmp_path, text_model):
    settings = job(tmp_path, "dead.jsonl")
    with started_replicas(text_model, {}, GROUPS, settings) as replicas:
        for replica in replicas:
            os.kill(replica.process.pid, signal.SIGKILL)
        with pytest.raises(JobError, match="last replica ended with code -9"):
            run_replicated(replicas, settings, prepare_job(settings), lambda report: None)


def test_a_model_that_cannot_be_had_leaves_no_output(tmp_path):
    settings = job(tmp_path, "none.jsonl")
    with (
        pytest.raises(ModelError, match="no folder"),
        started_replicas("/no/model", {}, GROUPS, settings),
    ):
        pass
    assert not settings.output.exists()
