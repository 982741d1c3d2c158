"""Jobs over files: one result per row whatever the row is like."""

import dataclasses
import json
import time
from pathlib import Path

import pytest

from stoker import SamplingParams
from stoker.errors import InvalidRequestError, JobError
from stoker.job.expect import Accuracy, Expect
from stoker.job.job import JobSettings, prepare_job, run_job

PARAMS = SamplingParams(temperature=1, max_tokens=6, ignore_eos=True)


def run(llm, tmp_path, lines, **changes):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines) + "\n")
    settings = JobSettings(source, target, **{"params": PARAMS, "restart": True, **changes})
    report = prepare_job(settings)
    run_job(llm, settings, report, lambda report: None)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    return {row["result"]["row"]: row for row in rows}, report


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_log_probabilities_of_a_row_are_those_of_its_prompt_alone(llm, tmp_path, suffix):
    params = dataclasses.replace(PARAMS, temperature=0, logprobs=2)
    source, target = tmp_path / "in.jsonl", tmp_path / f"out{suffix}"
    prompts = ["hello", "hello there", "world"]
    source.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    settings = JobSettings(source, target, params=params, raw=True, restart=True)
    run_job(llm, settings, prepare_job(settings), lambda report: None)
    if suffix == ".parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(target).to_pylist()
    else:
        rows = [json.loads(line) for line in target.read_text().splitlines()]
    found = {row["prompt"]: row["result"] for row in rows}
    for prompt in prompts:
        [one] = llm.generate([prompt], params)[0].outputs
        want = [
            [
                {"id": token, "token": e.decoded_token, "logprob": e.logprob, "rank": e.rank}
                | ({} if e.is_text else {"bytes": list(e.bytes)})
                for token, e in entry.items()
            ]
            for entry in one.logprobs
        ]
        assert [len(entry) for entry in want] == [2] * 6  # greedy: the drawn one is the likeliest
        listed = [
            [{k: v for k, v in one.items() if v is not None} for one in entry]  # Parquet has nulls
            for entry in found[prompt]["logprobs"]
        ]
        assert listed == want
        assert found[prompt]["cumulative_logprob"] == one.cumulative_logprob


def test_every_row_gets_one_result(llm, tmp_path):
    lines = [
        '{"prompt": "hello", "mark": 1}',
        '{"prompt": "broken',
        '{"messages": [{"role": "user", "content": "hello"}]}',
        '{"prompt_token_ids": [5, 6, 7]}',
        "",
        "[1, 2]",
        '{"text": "hello"}',
        '{"prompt": 7}',
        '{"prompt": ""}',
        '{"prompt_token_ids": [1, 4000]}',
        json.dumps({"prompt_token_ids": [1] * 600}),
        '{"messages": [{"role": "user"}]}',
        '{"prompt": "a", "prompt_token_ids": [1]}',
    ]
    rows, report = run(llm, tmp_path, lines)
    statuses = {number: row["result"]["status"] for number, row in rows.items()}
    bad = dict.fromkeys([2, 6, 7, 8, 9, 10, 12, 13], "bad_row")
    assert statuses == {1: "length", 3: "length", 4: "length", 11: "too_long", **bad}
    assert rows[1]["mark"] == 1
    assert rows[1]["result"]["output_tokens"] == 6
    errors = {number: rows[number]["result"]["error"] for number in [*bad, 11]}
    assert "line 2 is not valid JSON" in errors[2]
    assert "exactly one of prompt, messages, prompt_token_ids; it has text" in errors[7]
    assert "prompt must be text, not 7" in errors[8]
    assert "token id 4000 is out of range" in errors[10]
    assert "600 tokens and the context is 512" in errors[11]
    assert report.rows == report.total_rows == 12
    assert report.failed_rows == 9


def test_results_do_not_depend_on_the_other_rows(llm, tmp_path):
    lines = [json.dumps({"prompt": f"hello {number}"}) for number in range(40)]
    rows, _ = run(llm, tmp_path, lines, seed=7)
    again, _ = run(llm, tmp_path, lines[:5] + ["{bad"] * 5 + lines[10:], seed=7)
    other, _ = run(llm, tmp_path, lines, seed=8)
    assert len(rows) == 40
    same = [number for number in again if number <= 5 or number > 10]
    texts = {number: rows[number]["result"]["text"] for number in rows}
    assert all(again[number]["result"]["text"] == texts[number] for number in same)
    assert sum(other[number]["result"]["text"] != texts[number] for number in rows) > 30


def fails_for_some(outputs, logits):
    if any(output and output[0] % 2 for output in outputs):
        raise RuntimeError("odd")
    return logits


def test_a_row_that_fails_on_the_way_fails_alone(llm, tmp_path):
    lines = [json.dumps({"prompt": f"hello {number}"}) for number in range(12)]
    plain, _ = run(llm, tmp_path, lines)
    params = dataclasses.replace(PARAMS, logits_processors=[fails_for_some])
    rows, report = run(llm, tmp_path, lines, params=params)
    failed = [row["result"] for row in rows.values() if row["result"]["status"] == "failed"]
    assert 0 < len(failed) < 12
    assert report.failed_rows == len(failed)
    for number, row in rows.items():
        if row["result"]["status"] == "failed":
            assert row["result"]["output_tokens"] == 1
            assert row["result"]["error"].endswith("fails_for_some failed: RuntimeError: odd")
        else:
            assert row["result"]["text"] == plain[number]["result"]["text"]


def test_what_a_result_has_no_place_for_is_refused(llm, tmp_path):
    with pytest.raises(InvalidRequestError, match="no place for prompt_logprobs"):
        run(llm, tmp_path, ['{"prompt": "a"}'], params=SamplingParams(prompt_logprobs=1))


def test_raw_prompts_skip_the_template(llm, tmp_path):
    line = ['{"prompt": "hello"}']
    chat, _ = run(llm, tmp_path, line)
    raw, _ = run(llm, tmp_path, line, raw=True)
    assert chat[1]["result"]["prompt_tokens"] > raw[1]["result"]["prompt_tokens"]


def test_seconds_queued_and_running(llm, tmp_path):
    began = time.monotonic()
    lines = ['{"prompt": "hello"}'] * 9 + ['{"prompt": ""}']
    rows, _ = run(llm, tmp_path, lines, timings=True, dedup=False)
    took = time.monotonic() - began
    times = [
        (row["result"]["queued_seconds"], row["result"]["running_seconds"])
        for number, row in sorted(rows.items())
        if number < 10
    ]
    assert all(queued >= 0 and running >= 0 for queued, running in times)
    assert all(queued + running <= took + 0.01 for queued, running in times)
    assert times[8][0] > times[0][0], "three run at a time"
    assert "queued_seconds" not in rows[10]["result"]


def test_watchers_see_every_row(llm, tmp_path):
    first, _ = run(llm, tmp_path, ['{"prompt": "hello"}'])
    text = first[1]["result"]["text"]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"prompt": "hello", "want": f" {text} "}, {"prompt": "hello", "want": "no"}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    settings = JobSettings(source, target, PARAMS, restart=True)
    report = prepare_job(settings)
    report.accuracy = Accuracy(Expect("want"))
    seen = []
    report.watchers.append(lambda fields, result, agrees: seen.append((result["row"], agrees)))
    run_job(llm, settings, report, lambda report: None)
    assert report.accuracy.compared.total() == len(seen) - 1 == 2
    assert (2, False) in seen
    assert (3, None) in seen


def test_jobs_that_can_not_start(tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    settings = JobSettings(source, target, PARAMS)
    with pytest.raises(JobError, match=r"cannot read .*in.jsonl: No such file"):
        prepare_job(settings)
    source.write_text("\n\n")
    with pytest.raises(JobError, match="holds no rows"):
        prepare_job(settings)
    source.write_text('{"prompt": "x"}\n')
    target.write_text("precious")
    with pytest.raises(JobError, match="exists; give another name, or --restart"):
        prepare_job(settings)
    assert target.read_text() == "precious"
    with pytest.raises(JobError, match="same file"):
        prepare_job(JobSettings(source, source, PARAMS, restart=True))
    with pytest.raises(JobError, match=r"folder of .* does not exist"):
        prepare_job(JobSettings(source, tmp_path / "no" / "out", PARAMS))


def test_an_output_that_could_not_be_continued_is_refused(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "x"}\n')
    for target, message in (("/dev/null", "is not a file"), (tmp_path, "is a folder")):
        with pytest.raises(JobError, match=message):
            prepare_job(JobSettings(source, Path(target), PARAMS, restart=True))
