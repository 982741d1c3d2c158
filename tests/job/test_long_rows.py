"""Rows far longer than the context are too long, whatever form their prompts have."""

import json
import os
import subprocess
import sys

import pytest

from stoker import LLM, SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.errors import InvalidRequestError
from stoker.job import prefetch
from stoker.job.job import JobSettings, prepare_job, run_job

LONG = "hello world " * 40_000
SAID = "the prompt has at least "


@pytest.fixture(scope="module")
def llm(text_model):
    with LLM(text_model, max_context=64) as one:
        yield one


def results(llm, tmp_path, rows, **settings):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    params = SamplingParams(temperature=0, max_tokens=3)
    job = JobSettings(source, tmp_path / "out.jsonl", params, ordered=True, **settings)
    report = prepare_job(job)
    run_job(llm, job, report, lambda report: None)
    return [json.loads(line) for line in job.output.read_text().splitlines()]


def request(number, url, **body):
    return {"custom_id": str(number), "method": "POST", "url": url, "body": {"model": "m", **body}}


@pytest.fixture
def tokenised(monkeypatch, llm):
    """The lengths of the texts that are tokenised."""
    lengths = []
    encode_many = llm.text.encode_many

    def note(texts, **options):
        lengths.extend(map(len, texts))
        return encode_many(texts, **options)

    monkeypatch.setattr(llm.text, "encode_many", note)
    return lengths


def test_prompts_and_chats(llm, tmp_path, tokenised):
    rows = [
        {"prompt": "hello"},
        {"prompt": LONG},
        {"messages": [{"role": "user", "content": LONG}]},
        {"messages": [{"role": "user", "content": "hello"}]},
    ]
    found = results(llm, tmp_path, rows)
    statuses = [row["result"]["status"] for row in found]
    assert statuses == ["length", "too_long", "too_long", "length"]
    for row, given in zip(found, rows, strict=True):
        assert {name: row[name] for name in given} == given
    assert all(row["result"]["error"].startswith(SAID) for row in found[1:3])
    assert max(tokenised) < 200


def test_requests_of_batch_files(llm, tmp_path, tokenised):
    rows = [
        request(1, "/v1/chat/completions", messages=[{"role": "user", "content": LONG}]),
        request(2, "/v1/completions", prompt=LONG),
        request(3, "/v1/completions", prompt="hello"),
    ]
    found = results(llm, tmp_path, rows)
    assert [row["response"]["status_code"] for row in found] == [400, 400, 200]
    for row in found[:2]:
        error = row["response"]["body"]["error"]
        assert error["code"] == "too_long"
        assert error["message"].startswith(SAID)
    assert max(tokenised) < 200


def test_rows_to_embed(llm, tmp_path, tokenised):
    rows = [{"prompt": LONG}, {"prompt": "hello"}]
    found = results(llm, tmp_path, rows, pooling=PoolingParams(), raw=True)
    assert [row["result"]["status"] for row in found] == ["too_long", "done"]
    assert tokenised == [5]


def test_rows_that_are_tokenised_are_counted_as_ever(llm, tmp_path):
    found = results(llm, tmp_path, [{"prompt": "hello " * 400}])
    assert found[0]["result"]["status"] == "too_long"
    assert "tokens and the context is 64" in found[0]["result"]["error"]


@pytest.mark.parametrize("call", ["generate", "chat", "embed", "generate_iter", "stream"])
def test_calls_in_python(llm, call):
    prompt = [{"role": "user", "content": LONG}] if call == "chat" else LONG
    if call == "generate_iter":
        prompt = [prompt]
    with pytest.raises(InvalidRequestError, match=SAID):
        list(getattr(llm, call)(prompt))


def test_long_texts_are_not_tokenised_together(llm, tmp_path, monkeypatch):
    groups = []
    encode_many = llm.text.encode_many
    monkeypatch.setattr(prefetch, "TOGETHER", 100)
    monkeypatch.setattr(
        llm.text,
        "encode_many",
        lambda texts, **options: groups.append(len(texts)) or encode_many(texts, **options),
    )
    sizes = [60, 60, 10, 10, 10, 200, 5, 5]
    found = results(llm, tmp_path, [{"prompt": "h" * size} for size in sizes], raw=True)
    assert groups == [1, 4, 1, 2]  # 60 | 60 10 10 10 | 200 | 5 5
    assert [len(row["prompt"]) for row in found] == sizes


@pytest.mark.slow
def test_a_row_of_sixty_megabytes_in_little_memory(tmp_path):
    """It took over 12 GB."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts = ["Say this again: ok", "a b " * 15_000_000, "Say this again: fine"]
    source.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    code = "import sys; from stoker.cli.main import main; code = main(sys.argv[1:])"
    code += "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    command = [sys.executable, "-c", code, "run", source, "-o", out, "-q", "--no-report"]
    done = subprocess.run(
        [*map(str, command), "--max-tokens", "4", "--threads", "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert int(done.stdout) < 1_000_000
    statuses = [json.loads(line)["result"]["status"] for line in out.open()]
    assert sorted(statuses) == ["done", "done", "too_long"]
