"""Jobs over other formats, templates and requests go on where they were, too."""

import dataclasses
import json

import pytest

from stoker import SamplingParams
from stoker.errors import JobError
from stoker.job.expect import Expect
from stoker.job.job import JobSettings, prepare_job, run_job
from stoker.job.prompts import PromptSettings
from stoker.job.sources import Shard

PARAMS = SamplingParams(temperature=1, max_tokens=6, ignore_eos=True)
CHAT = [{"role": "user", "content": "hello"}]


def run(llm, settings):
    report = prepare_job(settings)
    if not report.complete:
        run_job(llm, settings, report, lambda report: None)
    return report


def lines(path):
    return sorted(path.read_text().splitlines())


def cut(path, count):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))


def request(number, **body):
    body = {"messages": CHAT, **body}
    return {"custom_id": f"r{number}", "url": "/v1/chat/completions", "body": body}


@pytest.fixture
def batch(tmp_path):
    requests = [request(number) for number in range(8)]
    requests[2]["body"]["n"] = 2
    requests[5]["body"]["frobnicate"] = 1
    (tmp_path / "batch.jsonl").write_text("\n".join(map(json.dumps, requests)) + "\n{bad\n")
    return JobSettings(tmp_path / "batch.jsonl", tmp_path / "out.jsonl", PARAMS)


@pytest.mark.parametrize("ordered", [False, True])
def test_requests_go_on_where_they_were(llm, batch, ordered):
    batch = dataclasses.replace(batch, ordered=ordered)
    run(llm, batch)
    whole = lines(batch.output)
    assert len(whole) == 9
    kept = batch.output
    if ordered:
        kept.unlink()
        kept = batch.output.with_name("out.jsonl.stoker") / "rows.jsonl"
    cut(kept, 4)
    report = run(llm, batch)
    assert (report.resumed_rows, report.rows, report.failed_rows) == (4, 9, 2)
    assert lines(batch.output) == whole
    assert prepare_job(batch).complete
    report = run(llm, dataclasses.replace(batch, retry=("bad_row",)))
    assert report.resumed_rows == 7
    assert lines(batch.output) == whole


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("requests", [True, False])
def test_accuracy_counts_rows_of_an_earlier_run(llm, tmp_path, requests, samples):
    """Of requests and of rows with samples too, whether or not it was asked for before."""
    rows = [request(at) if requests else {"messages": CHAT} for at in range(8)]
    rows = [{**row, "want": "[a-f]", "kind": at % 2} for at, row in enumerate(rows)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    params = dataclasses.replace(PARAMS, n=samples)
    job = JobSettings(source, tmp_path / "out.jsonl", params)
    expect = Expect("want", "regex", "kind")
    whole = prepare_job(job, expect)
    run_job(llm, job, whole, lambda report: None)
    cut(job.output, 3)
    again = prepare_job(job, expect)
    run_job(llm, job, again, lambda report: None)
    assert again.resumed_rows == 3
    for report in (again, prepare_job(job, expect)):
        assert report.accuracy.as_json() == whole.accuracy.as_json()
    assert whole.accuracy.compared == {"0": 4 * samples, "1": 4 * samples}
    assert 0 < whole.accuracy.rate < 1


def test_a_response_keeps_its_own_columns(batch):
    for key in ("id", "response", "error"):
        with pytest.raises(JobError, match=rf"a response has '{key}' already, .* --result-key"):
            prepare_job(dataclasses.replace(batch, result_key=key))


def test_settings_of_the_input_are_compared(llm, tmp_path):
    (tmp_path / "a.csv").write_text("word\n" + "".join(f"hello {at}\n" for at in range(9)))
    job = JobSettings(
        tmp_path / "a.csv", tmp_path / "out.jsonl", PARAMS, prompts=PromptSettings("Say {{ word }}")
    )
    run(llm, job)
    whole = lines(job.output)
    cut(job.output, 4)
    for changes, told in [
        ({"prompts": PromptSettings("{{ word }}")}, "prompts.template was"),
        ({"prompts": dataclasses.replace(job.prompts, system="x")}, "prompts.system was null"),
        ({"prompts": dataclasses.replace(job.prompts, examples=(("a", "b"),))}, "examples was"),
        ({"sample": 3}, "sample was null and is 3"),
        ({"shard": Shard(1, 2)}, "shard.index was null and is 1"),
        ({"format": "tsv"}, 'format was "csv" and is "tsv"'),
        ({"params": dataclasses.replace(PARAMS, n=2)}, "n was 1 and is 2"),
    ]:
        with pytest.raises(JobError, match=told):
            prepare_job(dataclasses.replace(job, **changes))
    same = PromptSettings("Say {{ word }}", "prompt.txt")  # the same text from a file
    report = run(llm, dataclasses.replace(job, prompts=same, format="csv"))  # it was told so now
    assert (report.resumed_rows, report.rows) == (4, 9)
    assert lines(job.output) == whole


def test_a_shard_goes_on_where_it_was_and_is_limited(llm, tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"hello {at}\n" for at in range(20)))
    job = JobSettings(tmp_path / "a.txt", tmp_path / "out.jsonl", PARAMS, sample=12)
    job = dataclasses.replace(job, shard=Shard(2, 2))
    assert run(llm, dataclasses.replace(job, limit=2)).rows == 2
    report = run(llm, job)
    assert (report.resumed_rows, report.rows, report.total_rows) == (2, 6, 6)
    again = dataclasses.replace(job, output=tmp_path / "again.jsonl")
    run(llm, again)
    assert lines(again.output) == lines(job.output)


def test_rows_are_copied_only_where_their_parameters_are_the_same(llm, tmp_path):
    own = [{}, {"max_tokens": 2}, {"max_tokens": 2}, {"temperature": 1}, {"temperature": 1}, {}]
    rows = [json.dumps({"prompt": "hello", "sampling": one}) for one in own]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    cold = dataclasses.replace(PARAMS, temperature=0)
    job = JobSettings(tmp_path / "a.jsonl", tmp_path / "out.jsonl", cold)
    report = run(llm, job)
    assert report.copied_rows == 2
    tokens = {row["result"]["row"]: row["result"] for row in map(json.loads, lines(job.output))}
    assert [tokens[at]["output_tokens"] for at in range(1, 7)] == [6, 2, 2, 6, 6, 6]
    each = dataclasses.replace(job, output=tmp_path / "each.jsonl", dedup=False)
    assert run(llm, each).copied_rows == 0
    assert lines(each.output) == lines(job.output)
