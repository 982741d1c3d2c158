"""Jobs that embed: one result per row, broken rows reported, as in any job."""

import json

import pytest

from stoker import LLM, SamplingParams
from stoker.cli.main import main
from stoker.engine.request.pooling import PoolingParams
from stoker.errors import InvalidRequestError
from stoker.job.job import JobSettings, prepare_job, run_job

LINES = [
    '{"prompt": "hello", "mark": 1}',
    '{"prompt": "broken',
    '{"prompt_token_ids": [5, 6, 7]}',
    '{"prompt": ""}',
    json.dumps({"prompt_token_ids": [1] * 512}),
    json.dumps({"prompt_token_ids": [1] * 513}),
    '{"messages": [{"role": "user", "content": "hello"}]}',
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(LINES) + "\n")
    return path


def results(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["result"]["row"]: row for row in rows}


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_every_row_gets_one_result(pooling, text_model, source, tmp_path):
    target = tmp_path / "out.jsonl"
    params = PoolingParams(pooling=pooling)
    settings = JobSettings(source, target, SamplingParams(), raw=True, pooling=params)
    report = prepare_job(settings)
    with LLM(text_model, max_running=2) as llm:
        run_job(llm, settings, report, lambda report: None)
        rows = results(target)
        chat = llm.text.encode_chat([{"role": "user", "content": "hello"}])[1]
        expected = llm.embed(["hello", [5, 6, 7], [1] * 512, chat], pooling=pooling)
    statuses = {number: row["result"]["status"] for number, row in rows.items()}
    done = dict.fromkeys([1, 3, 5, 7], "done")
    assert statuses == {2: "bad_row", 4: "bad_row", 6: "too_long", **done}
    assert rows[1]["mark"] == 1
    for number, one in zip(done, expected, strict=True):
        result = rows[number]["result"]
        assert result["embedding"] == pytest.approx(one.outputs.embedding, abs=1e-6)
        assert result["prompt_tokens"] == len(one.prompt_token_ids)
        assert "output_tokens" not in result
    assert report.rows == report.total_rows == 7
    assert report.failed_rows == 3
    assert "prompt tokens/s" in "\n".join(report.lines())


def test_from_the_command_line(text_model, source, tmp_path, capsys):
    target = tmp_path / "out.jsonl"
    command = ["embed", str(source), "-o", str(target), "-m", text_model]
    assert main(command) == 3
    assert "rows      7 of 7 (2 bad_row, 4 done, 1 too_long)" in capsys.readouterr().out
    first = results(target)[1]["result"]["embedding"]
    assert sum(value * value for value in first) == pytest.approx(1)
    assert main(command) == 3
    assert "is complete; --restart" in capsys.readouterr().err
    assert main([*command, "--pooling", "mean"]) == 1
    assert 'pooling.pooling was "last" and is "mean"' in capsys.readouterr().err
    assert main([*command, "--restart", "--pooling", "mean", "--no-normalize"]) == 3
    second = results(target)[1]["result"]["embedding"]
    with LLM(text_model) as llm:
        (expected,) = llm.embed("hello", pooling="mean", normalize=False)
    assert second == pytest.approx(expected.outputs.embedding, abs=1e-5)


def test_a_job_the_model_cannot_do_writes_nothing(text_model, source, tmp_path):
    target = tmp_path / "out.jsonl"
    settings = JobSettings(source, target, SamplingParams(), pooling=PoolingParams("classify"))
    with LLM(text_model) as llm, pytest.raises(InvalidRequestError, match="cannot classify"):
        run_job(llm, settings, prepare_job(settings), lambda report: None)
    assert not target.exists()
