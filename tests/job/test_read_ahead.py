"""`--policy prefix` with `--read-ahead`: which rows are known, and what is computed of them."""

import json
import os
import random

import pytest

from stoker import LLM
from stoker.cli.main import main
from stoker.engine.gauges import read_gauges
from stoker.engine.request.params import SamplingParams
from stoker.errors import InvalidRequestError
from stoker.job.job import prepare_job, run_job
from stoker.job.settings import JobSettings


@pytest.fixture
def source(tmp_path):
    """Two hundred rows of ten beginnings, shuffled; a letter is a token."""
    path, rng = tmp_path / "in.jsonl", random.Random(0)
    stems = ["".join(rng.choice("abcfgijk") for _ in range(64)) for _ in range(10)]
    rows = [{"prompt": stems[n % 10] + str(n)} for n in range(200)]
    rng.shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(model, source, output, policy, read_ahead):
    """The answers by row, the tokens saved and the rows that waited after the first step."""
    params = SamplingParams(temperature=0, max_tokens=2)
    settings = JobSettings(
        source, output, params, raw=True, read_ahead=read_ahead, dedup=False, ordered=True
    )
    options = {"policy": policy, "max_running": 4, "block_size": 8, "num_blocks": 60}
    waited = []
    with LLM(model, **options) as llm:
        watch = lambda _: waited.append(llm.engine.scheduler.num_waiting)  # noqa: E731
        run_job(llm, settings, prepare_job(settings), watch)
        saved = read_gauges(llm.engine).saved_tokens
    texts = [json.loads(line)["result"]["text"] for line in output.read_text().splitlines()]
    return texts, saved, waited[0]


def test_all_rows_are_known_and_each_beginning_is_computed_once(text_model, source, tmp_path):
    known = run(text_model, source, tmp_path / "a.jsonl", "prefix", 200)
    few = run(text_model, source, tmp_path / "b.jsonl", "prefix", None)
    arrival = run(text_model, source, tmp_path / "c.jsonl", "fcfs", None)
    assert known[0] == few[0] == arrival[0]
    assert known[1] == (200 - 10) * 64  # all but the first row of each beginning
    assert known[1] > arrival[1]
    assert known[1] >= few[1] > arrival[1]
    assert known[2] >= 190
    assert few[2] < 128  # the first rows that were read


def test_a_number_of_rows_is_checked(source, tmp_path):
    with pytest.raises(InvalidRequestError, match="read_ahead must be at least 1, not 0"):
        JobSettings(source, tmp_path / "out.jsonl", SamplingParams(), read_ahead=0)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_replicas_read_for_themselves(source, tmp_path, capsys):
    command = ["run", str(source), "-o", str(tmp_path / "out.jsonl"), "--read-ahead", "9"]
    assert main([*command, "--replicas", "2"]) == 1
    assert "--read-ahead 9 is of one engine, and --replicas 2 makes 2" in capsys.readouterr().err
