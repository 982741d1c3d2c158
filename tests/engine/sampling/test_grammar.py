"""Answers that must have a form: by random weights at temperature 1, alone and in company."""

import json
import re
import sys
import time

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stoker import LLM, BeamSearchParams, SamplingParams
from stoker.cli.main import main
from stoker.engine.request.constraint import Constraint, make_constraint
from stoker.engine.request.request import Request
from stoker.engine.request.response_format import from_response_format
from stoker.engine.sampling import grammar_masks
from stoker.engine.sampling.grammar import GrammarCompiler
from stoker.engine.sampling.grammar_masks import take_masks
from stoker.errors import InvalidRequestError, StokerError
from stoker.ops.token_bitmask import unpack

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kinds": {"type": "array", "items": {"enum": ["a", "bé"]}, "maxItems": 2},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "kinds", "ok"],
    "additionalProperties": False,
}
LARK = 'start: "<" WORD ("," WORD)~0..2 ">"\nWORD: /[a-z]{1,4}/'
GBNF = 'root ::= "one" | "two" [0-9] [0-9]'
CHOICE = ["yes", "yesterday", "no", "naïve, ✓"]


def follows_schema(text):
    found = json.loads(text)
    return (
        set(found) == {"name", "age", "kinds", "ok"}
        and isinstance(found["name"], str)
        and len(found["name"]) <= 6
        and type(found["age"]) is int
        and 0 <= found["age"] <= 150
        and len(found["kinds"]) <= 2
        and set(found["kinds"]) <= {"a", "bé"}
        and type(found["ok"]) is bool
    )


def matching(pattern):
    return lambda text: bool(re.fullmatch(pattern, text, re.DOTALL))


FORMS = [
    ({"json_schema": SCHEMA}, follows_schema),
    ({"json_schema": json.dumps(SCHEMA)}, follows_schema),
    ({"regex": r"[a-f]{3}-\d{2,4}|x"}, matching(r"[a-f]{3}-\d{2,4}|x")),
    ({"regex": r"a*"}, matching("a*")),
    ({"grammar": LARK}, matching(r"<[a-z]{1,4}(,[a-z]{1,4}){0,2}>")),
    ({"grammar": GBNF}, matching("one|two[0-9]{2}")),
    ({"choice": CHOICE}, lambda text: text in CHOICE),
    ({"choice": ["hello"], "temperature": 0}, lambda text: text == "hello"),
]
FREE = {"max_tokens": 12}


def mixed_batch():
    """Prompts, parameters and checks: every form several times, and free rows between them."""
    prompts, params, checks = [], [], []
    for number in range(4):
        for wishes, check in FORMS:
            rest = {"n": 2} if number == 1 and "temperature" not in wishes else {}
            prompts += [f"hello there {len(prompts)}", f"world {number}"]
            common = {"seed": len(prompts), "max_tokens": 120}
            params.append(SamplingParams(**{**common, **wishes, **rest}))
            params.append(SamplingParams(**FREE, seed=len(prompts)))
            checks += [check, None]
    return prompts, params, checks


def shown(outputs):
    return [
        [(c.text, c.token_ids, c.finish_reason, c.complete) for c in o.outputs] for o in outputs
    ]


@pytest.fixture(scope="module")
def llm(text_model):
    with LLM(text_model) as one:
        yield one


@pytest.fixture(scope="module")
def together(llm):
    prompts, params, _ = mixed_batch()
    return shown(llm.generate(prompts, params))


def test_answers_have_their_form(together):
    _, params, checks = mixed_batch()
    whole = 0
    for answers, own, check in zip(together, params, checks, strict=True):
        assert len(answers) == own.n
        for text, ids, reason, complete in answers:
            assert len(ids) <= own.max_tokens
            if check is None:
                assert complete is None
            elif complete:
                assert check(text), (own.constraint, text)
                whole += 1
            else:
                assert reason == "length", (own.constraint, text)
                assert len(ids) == own.max_tokens
    assert whole > 30


@pytest.mark.parametrize(
    "options", [{"max_running": 1}, {"num_blocks": 24, "block_size": 8}, {"max_batch_tokens": 7}]
)
def test_answers_do_not_depend_on_company_or_preemption(text_model, together, options):
    prompts, params, _ = mixed_batch()
    with LLM(text_model, **options) as llm:
        assert shown(llm.generate(prompts, params)) == together
        if "num_blocks" in options:
            assert llm.engine.scheduler.num_preemptions > 0


def replace_filling(monkeypatch, before):
    """Call `before` each time masks are about to be filled."""
    genuine = grammar_masks._executor(1)

    class Filling:
        def unsafe_compute_mask_ptr(self, *args):
            before()
            genuine.unsafe_compute_mask_ptr(*args)

    monkeypatch.setattr(grammar_masks, "_executor", lambda threads: Filling())


def test_requests_leave_while_their_masks_are_filled(llm, together, monkeypatch):
    """Slow masks: half of the rows are cancelled before theirs are done, the rest don't notice."""
    replace_filling(monkeypatch, lambda: time.sleep(0.003))
    prompts, params, _ = mixed_batch()
    engine = llm.engine
    for number, (prompt, own) in enumerate(zip(prompts, params, strict=True)):
        ids = tuple(llm.text.encode(prompt))
        engine.add(Request(str(number), ids, own, seed=own.seed, prompt=prompt))
    found, left = {}, [str(number) for number in range(0, len(prompts), 4)]
    while engine.has_work:
        found |= {out.request_id: out for out in engine.step()}
        if left and (output := engine.cancel(left.pop())) is not None:
            assert all(one.finish_reason for one in output.outputs)
            assert {one.complete for one in output.outputs} <= {None, False, True}
    kept = [number for number in range(len(prompts)) if number % 4]
    assert shown(found[str(number)] for number in kept) == [together[number] for number in kept]


def test_masks_that_can_not_be_filled(llm, together, monkeypatch):
    """The requests at hand fail with the reason, and the engine goes on with others."""
    prompts, params, _ = mixed_batch()

    def fail():
        raise ValueError("no masks today")

    with monkeypatch.context() as patched:
        replace_filling(patched, fail)
        with pytest.raises(ValueError, match="no masks today"):
            llm.generate(prompts, params)
    assert shown(llm.generate(prompts, params)) == together


def test_a_step_that_fails_after_its_draws(text_model, together, monkeypatch):
    """Its tokens are dropped and drawn again, from where the answers stood before."""
    prompts, params, _ = mixed_batch()
    with LLM(text_model) as llm:
        runner, failed = llm.engine.runner, []
        genuine = runner.launch

        def launch(step, draws, pools, vectors):
            handle = genuine(step, draws, pools, vectors)
            follows = any(own.grammar and own.output for own in draws.controls.values())
            if follows and len(failed) < 3 and step.num_tokens > 1:
                failed.append(step)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return handle

        monkeypatch.setattr(runner, "launch", launch)
        assert shown(llm.generate(prompts, params)) == together
        assert len(failed) == 3


def test_the_shipped_model_and_every_draw():
    with LLM() as llm:
        wishes = {"json_schema": SCHEMA, "max_tokens": 150, "seed": 3}
        for rest in (
            {},
            {"top_k": 5, "logprobs": 2},
            {"temperature": 0, "repetition_penalty": 1.5},
            {"min_p": 0.1},
        ):
            for output in llm.generate(["Who?", "What?"], SamplingParams(**wishes, **rest)):
                [one] = output.outputs
                assert one.complete
                assert one.finish_reason == "stop"
                assert follows_schema(one.text)
        assert "".join(llm.stream("Well?", SamplingParams(choice=CHOICE))) in CHOICE


def test_a_cut_answer_says_so(llm):
    cut = SamplingParams(regex="[a-z]{40}", max_tokens=5, seed=0)
    [one] = llm.generate("hello", cut)[0].outputs
    assert (one.finish_reason, one.complete) == ("length", False)
    open_end = SamplingParams(regex="[a-z]{2,400}", max_tokens=5, seed=0)
    [one] = llm.generate("hello", open_end)[0].outputs
    assert (one.finish_reason, one.complete) in {("length", True), ("stop", True)}


def test_stop_strings_and_stop_ids(llm):
    cut = SamplingParams(regex="[ab]{3}-[ab]{3}", stop="-", seed=0)
    [one] = llm.generate("hello", cut)[0].outputs
    assert (one.finish_reason, one.complete) == ("stop", False)
    assert re.fullmatch("[ab]{3}", one.text)
    special = llm.text.tokenizer.convert_tokens_to_ids("<|user|>")
    for seed in range(10):
        params = SamplingParams(
            regex="(ab)+", stop_token_ids=[special], logit_bias={special: 50}, seed=seed
        )
        [one] = llm.generate("hello", params)[0].outputs
        assert (one.text, one.finish_reason, one.complete) == ("ab", "stop", True)
        assert one.token_ids[-1] == special


def test_min_tokens_and_what_bars_all(llm):
    params = SamplingParams(regex="a*", min_tokens=4, max_tokens=8, seed=0)
    [one] = llm.generate("hello", params)[0].outputs
    assert re.fullmatch("a{4,}", one.text)
    end = llm.text.tokenizer.convert_tokens_to_ids("<|end|>")
    params = SamplingParams(choice=["no"], allowed_token_ids=[end])
    [one] = llm.generate("hello", params)[0].outputs
    assert one.finish_reason == "error"
    assert "no token may be drawn" in one.error
    assert one.complete is False


def test_a_model_without_an_end_of_sequence(text_model, tmp_path):
    import shutil

    folder = shutil.copytree(text_model, tmp_path / "endless")
    (folder / "generation_config.json").write_text("{}")
    config = folder / "tokenizer_config.json"
    fields = json.loads(config.read_text())
    del fields["eos_token"]
    config.write_text(json.dumps(fields))
    with LLM(str(folder)) as llm:
        assert not llm.engine.scheduler.eos_ids
        [one] = llm.generate("hello", SamplingParams(choice=CHOICE, seed=1))[0].outputs
        assert one.text in CHOICE or not one.complete
        [one] = llm.generate("hello", SamplingParams(regex="a+", max_tokens=9))[0].outputs
        assert (one.text, one.finish_reason, one.complete) == ("a" * 9, "length", True)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"json_schema": {"type": "strin"}}, "json_schema does not compile: Invalid type: strin"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": 3}, "json_schema must be a JSON object"),
        ({"json_schema": {"uniqueItems": True, "type": "array"}}, "Unimplemented keys"),
        ({"regex": "(a"}, "regex does not compile: .*unclosed group"),
        ({"regex": ""}, "regex must be a text that is not empty"),
        ({"grammar": "start: foo"}, "grammar does not compile: .*unknown name"),
        ({"grammar": "root ::= other"}, "grammar does not compile"),
        ({"choice": []}, "choice is empty"),
        ({"choice": "yes"}, "choice must be a list"),
        ({"choice": ["a", 3]}, "choice must hold texts"),
        ({"regex": "a", "choice": ["a"]}, "regex and choice were given together"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos goes on where regex"),
    ],
)
def test_bad_forms(wishes, message):
    with pytest.raises(InvalidRequestError, match="(?s)" + message):
        SamplingParams(**wishes)


def test_bad_forms_that_need_the_model(llm):
    with pytest.raises(InvalidRequestError, match="grammar does not compile"):
        llm.generate("hello", SamplingParams(grammar="start: <|nothing|>"))
    with pytest.raises(InvalidRequestError, match="beam search can't follow a regex"):
        BeamSearchParams(beam_width=2, max_tokens=2, regex="a")
    tokenizer, llm.engine.tokenizer, llm.engine._compiler = llm.engine.tokenizer, None, None
    try:
        with pytest.raises(InvalidRequestError, match="need a tokenizer"):
            llm.generate([[5]], SamplingParams(regex="a"))
    finally:
        llm.engine.tokenizer = tokenizer


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(StokerError, match="pip install llguidance"):
        SamplingParams(regex="not asked for before")


def test_each_constraint_is_compiled_once(llm):
    llm.generate(["hello", "there"], SamplingParams(regex="once|twice"))
    compiler = llm.engine._compiler
    same = compiler.compile(make_constraint(regex="once|twice"))
    assert same is compiler.compile(Constraint("regex", "once|twice"))


def metaspace_tokenizer():
    """As sentencepiece makes them: blanks are '▁', unknown characters are bytes."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcyesno0123"]
    vocab = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_special_tokens([AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


def test_masks_of_a_sentencepiece_tokenizer_in_a_larger_vocabulary():
    fast = metaspace_tokenizer()
    compiler = GrammarCompiler(fast.backend_tokenizer.to_str(), vocab=300, eos_ids=[1])
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = compiler.compile(make_constraint(choice=["yes no", "é1"])).start()
        output = []
        while not state.ended:
            mask = unpack(torch.from_numpy(take_masks([state])), 300)
            assert mask.shape == (1, 300)
            allowed = mask[0].nonzero()[:, 0].tolist()
            assert max(allowed) < len(fast)
            output.append(int(rng.choice([t for t in allowed if t != 1])))
            state.follow(output[-1])
        assert state.complete
        assert fast.decode(output) in {"yes no", "é1"}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (None, {}),
        ({"type": "text"}, {}),
        ({"type": "json_object"}, {"json_schema": {"type": "object"}}),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
            {"json_schema": SCHEMA},
        ),
    ],
)
def test_response_format(given, made):
    assert from_response_format(given) == made
    SamplingParams(**made)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("json", "response_format must be an object"),
        ({"type": "yaml"}, "response_format.type must be"),
        ({"type": "json_schema"}, "response_format.json_schema.schema must be"),
        ({"type": "json_schema", "json_schema": {"schema": 1}}, "schema must be a JSON schema"),
    ],
)
def test_bad_response_format(given, message):
    with pytest.raises(InvalidRequestError, match=message):
        from_response_format(given)


def test_the_command_line(text_model, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"hello {n}"}) + "\n" for n in range(6)))
    schema, grammar = tmp_path / "schema.json", tmp_path / "one.lark"
    schema.write_text(json.dumps(SCHEMA))
    grammar.write_text(LARK)
    for number, (flags, check) in enumerate(
        [
            (["--schema", str(schema)], follows_schema),
            (["--regex", "[ab]{2}"], matching("[ab]{2}")),
            (["--grammar", str(grammar)], FORMS[4][1]),
            (["--choice", "yes, no"], lambda text: text in ("yes", "no")),
        ]
    ):
        out = tmp_path / f"out{number}.jsonl"
        arguments = ["run", str(rows), "-o", str(out), "-m", text_model, "--temperature", "1"]
        assert main([*arguments, "--max-tokens", "150", *flags]) == 0
        for line in out.read_text().splitlines():
            result = json.loads(line)["result"]
            assert result["complete"] is (result["status"] == "done")
            assert not result["complete"] or check(result["text"])
    capsys.readouterr()
    schema.write_text('{"type": "strin"}')
    missing = tmp_path / "new.jsonl"
    assert main(["run", str(rows), "-o", str(missing), "--schema", str(schema)]) == 1
    assert "json_schema does not compile: Invalid type: strin" in capsys.readouterr().err
    assert not missing.exists()
    assert main(["run", str(rows), "-o", str(missing), "--schema", str(tmp_path / "no")]) == 1
    assert "no: No such file" in capsys.readouterr().err
    assert main(["generate", "hello", "-m", text_model, "--choice", "left,right"]) == 0
    assert capsys.readouterr().out.strip() in ("left", "right")
