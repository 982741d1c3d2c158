"""Schemas and choices at the edges: honoured or refused, and neither takes long."""

import json
import random
import subprocess
import sys
import time
from fractions import Fraction

import pytest

from stoker import LLM, SamplingParams
from stoker.cli.main import main
from stoker.engine.request.constraint import TRIED, make_constraint, new_matcher
from stoker.engine.request.schema import FORMATS, NESTED, OPTIONAL, prepare_schema
from stoker.engine.request.schema_numbers import FARTHEST
from stoker.engine.request.schema_references import LEVELS
from stoker.errors import InvalidRequestError

FIXED = {"additionalProperties": False}
TREE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["next"],
    **FIXED,
}


@pytest.fixture(scope="module")
def bytewise():
    """A tokenizer of the 256 bytes, by which answers can be drawn without a model."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def answers(bytewise, count=8, most=400, **form):
    """Whole answers that a constraint allows, drawn at random."""
    constraint = make_constraint(**form)
    found = []
    for seed in range(count):
        rng, matcher, text = random.Random(seed), new_matcher(bytewise, constraint), bytearray()
        while len(text) < most:
            mask = int.from_bytes(matcher.compute_bitmask(), "little")
            assert not matcher.is_error(), (form, bytes(text), matcher.get_error()[:200])
            allowed = [byte for byte in range(256) if mask >> byte & 1]
            if matcher.is_accepting() and (not allowed or rng.random() < 0.3):
                found.append(text.decode())
                break
            # quotes and ends more often, so that answers end
            ends = [byte for byte in allowed if byte in b'"]},0']
            text.append(rng.choice(ends if ends and rng.random() < 0.4 else allowed))
            matcher.consume_token(text[-1])
    return found


def refused(message, **form):
    began = time.monotonic()
    with pytest.raises(InvalidRequestError, match="(?s)" + message) as problem:
        SamplingParams(**form)
    assert time.monotonic() - began < 20  # a tenth of a second alone
    assert len(str(problem.value)) < 600
    return str(problem.value)


# -- choices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1999, 2000, 20_000])
def test_choices_of_thousands(bytewise, count):
    labels = [f"label {number}" for number in range(count)]
    began = time.monotonic()
    found = answers(bytewise, choice=labels)
    assert time.monotonic() - began < 20  # a third of a second alone
    assert set(found) <= set(labels)
    assert len(set(found)) > 3


def test_thousands_of_labels_in_the_engine():
    labels = [f"label {number}" for number in range(2_500)]
    with LLM() as llm:
        for params in ({"choice": labels}, {"json_schema": {"enum": labels}}):
            [output] = llm.generate("Pick one:", SamplingParams(temperature=0, **params))
            [one] = output.outputs
            assert one.text.strip('"') in labels
            assert one.complete


@pytest.mark.parametrize(
    "labels",
    [
        ["yes", "yesterday", "yes!", "y"],
        ["a" * length for length in range(1, 40)],
        ["same", "same", "other"],
        [
            '"quoted"',
            "back\\slash",
            "line\nbreak",
            "\ttab",
            "nul\0",
            "/slash/",
            "<|end|>",
            "naïve ✓",
        ],
        ["start: X", "|", ".*", "%ignore", "$", "{1,2}"],
    ],
)
def test_labels_of_all_kinds(bytewise, labels):
    found = answers(bytewise, count=60, choice=labels)
    assert set(found) <= set(labels)
    assert len(set(found)) > min(len(set(labels)), 5) / 2


def test_choices_that_are_none():
    refused("choice is empty", choice=[])
    refused(r"texts that are not empty, not '' \(at 1 of it\)", choice=["a", ""])
    refused(r"not None \(at 0 of it\)", choice=[None])
    refused("choice is not Unicode: it holds '.ud83d'", choice=["a", "half \ud83d"])


# -- schemas that are honoured ------------------------------------------------------------------


def test_true_is_any_json(bytewise):
    for schema in (True, "true", {}, "{}"):
        for text in answers(bytewise, json_schema=schema):
            json.loads(text)
    assert SamplingParams(json_schema=True).json_schema == "{}"


def test_a_format_that_is_not_known_is_an_annotation(bytewise):
    for name in (
        "color",
        "int32",
        "password",
        "regex",
        "uri-reference",
        "double",
        "unknown-to-all",
    ):
        for text in answers(bytewise, count=3, json_schema={"type": "string", "format": name}):
            assert isinstance(json.loads(text), str)
    schema = {
        "properties": {"format": {"const": "a format"}, "date": {"format": "date"}},
        "$defs": {"x": {"items": {"format": "x"}}},
        "default": {"format": "y"},
    }
    assert prepare_schema(schema) == {**schema, "$defs": {"x": {"items": {}}}}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_known_formats_are_followed(bytewise, name):
    plain = new_matcher(bytewise, make_constraint(json_schema={"type": "string"}))
    own = new_matcher(bytewise, make_constraint(json_schema={"type": "string", "format": name}))
    text = b'"?! no such thing"'
    assert plain.try_consume_tokens(list(text)) == len(text)
    assert own.try_consume_tokens(list(text)) < len(text)


def test_references_to_itself(bytewise):
    for text in answers(bytewise, json_schema=TREE):
        inner = json.loads(text)
        while inner is not None:
            assert set(inner) == {"next"}
            inner = inner["next"]


@pytest.mark.parametrize(
    "bounds",
    [
        {"minimum": -(2**63), "maximum": 2**63 - 1},
        {"minimum": 0, "maximum": 2**64 - 1},
        {"minimum": 10**18},
        {"maximum": -(10**18)},
        {"minimum": 2**53 + 1, "maximum": 2**53 + 9},
        {"exclusiveMinimum": 2**53, "exclusiveMaximum": 2**53 + 7},
        {"minimum": 2**53, "exclusiveMinimum": True, "maximum": 2**53 + 6},
        {"minimum": 1e17, "maximum": 1e30},
        {"minimum": FARTHEST - 3000},
        {"minimum": -(2**63), "maximum": -5},
        {"exclusiveMaximum": -(2**62) + 1, "minimum": -(10**40)},
    ],
)
def test_large_bounds_of_whole_numbers(bytewise, bounds):
    exclusive = bounds.get("exclusiveMinimum") is True
    least = bounds["minimum"] + 1 if exclusive else bounds.get("minimum", -(10**50))
    for text in answers(bytewise, json_schema={"type": "integer", **bounds}):
        number = int(text)
        assert least <= number <= bounds.get("maximum", 10**50)
        assert exclusive or number > bounds.get("exclusiveMinimum", -(10**50))
        assert number < bounds.get("exclusiveMaximum", 10**50)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "minimum": -1.7e308, "maximum": 1.7e308},
        {"type": "number", "minimum": 10**18},
        {"type": "number", "exclusiveMaximum": 0},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "number", "exclusiveMaximum": 0, "maximum": -5},
        {"type": "number", "exclusiveMinimum": 2**53 + 1, "maximum": 2**53 + 8},
        {"allOf": [{"type": "integer"}, {"exclusiveMinimum": 2**53, "maximum": 2**53 + 6}]},
        {"allOf": [{"type": "integer"}, {"minimum": 2**53 + 1}, {"maximum": 2**63}]},
    ],
)
def test_bounds_of_numbers(bytewise, schema):
    bounds = {}
    for part in [schema, *schema.get("allOf", [])]:
        bounds |= part
    for text in answers(bytewise, count=20, json_schema=schema):
        number = Fraction(text)
        assert number >= Fraction(bounds.get("minimum", number))
        assert number <= Fraction(bounds.get("maximum", number))
        assert number > Fraction(bounds.get("exclusiveMinimum", number - 1))
        assert number < Fraction(bounds.get("exclusiveMaximum", number + 1))


def test_small_bounds_stay_as_they_are():
    schema = {"type": "integer", "exclusiveMinimum": 0.5, "maximum": 2**53 - 1}
    assert prepare_schema(schema) == schema


def test_hundreds_of_optional_properties(bytewise):
    names = [f"p{number}" for number in range(600)]
    schema = {"properties": {name: {"type": "null"} for name in names}, "type": "object", **FIXED}
    for text in answers(bytewise, count=3, json_schema=schema):
        assert set(json.loads(text)) <= set(names)


def test_pattern_properties(bytewise):
    schema = {"type": "object", "patternProperties": {"^a+$": {"type": "null"}}, **FIXED}
    for text in answers(bytewise, json_schema=schema):
        assert all(set(key) == {"a"} for key in json.loads(text))


# -- what is refused ----------------------------------------------------------------------------


def nested(levels, leaf):
    schema = leaf
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def chain(length):
    names = {f"a{number}": {"$ref": f"#/$defs/a{number + 1}"} for number in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**names, f"a{length}": {"type": "null"}}}


def loop():
    schema = {"type": "array"}
    schema["items"] = schema
    return schema


ENDLESS = "no answer that ends"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "json_schema is false, so no answer is possible"),
        ("false", "json_schema is false"),
        ({"$ref": "#"}, ENDLESS),
        ({"allOf": [{"$ref": "#"}]}, ENDLESS),
        ({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, ENDLESS),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            ENDLESS,
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/properties/a"}},
                "required": ["a"],
            },
            ENDLESS,
        ),
        ({**TREE, "properties": {"next": {"$ref": "#"}}}, ENDLESS),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, ENDLESS),
        ({"type": "integer", "minimum": 10**19, "maximum": 10**19 + 5}, "# has minimum 1000"),
        ({"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 1}, "can't be given"),
        ({"items": {"type": "integer", "maximum": -(10**19)}}, "#/items has maximum -1000"),
        ({"type": "integer", "minimum": float("inf")}, "a bound of # is infinite"),
        ({"type": "number", "minimum": float("nan")}, "can't be written as JSON"),
        ({"properties": {"id": {"const": 2**53 + 1}}}, "#/properties/id/const is 9007199254740993"),
        ({"enum": [1, [10**25]]}, "#/enum/1/0 is 1000"),
        ({"const": -(2**63)}, "write it as a string"),
        ({"enum": [1e22]}, "#/enum/0 is 1e[+]22"),
        ({"type": "number", "minimum": 1e20}, "# has minimum 1e[+]20"),
        ({"exclusiveMaximum": -(2**64)}, "# has exclusiveMaximum -1844"),
        ({"type": "integer", "multipleOf": 123456789}, "multipleOf asks for 123456789 remainders"),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 0.9967}]}, "remainders"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "does not compile: Unsatisfiable"),
        ({"type": "string", "pattern": "^a{5}$", "maxLength": 3}, "Unsatisfiable"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "look-ahead"),
        ({"type": "string", "minLength": 2**40}, "does not compile"),
        (nested(NESTED, {"type": "null"}), f"nested more than {NESTED} levels"),
        ("[" * 100_000, "json_schema is nested too deeply to be read"),
        (loop(), f"nested more than {NESTED} levels"),
        (chain(LEVELS + 1), f"more than {LEVELS} levels where references"),
        ({"uniqueItems": True, "type": "array"}, "Unimplemented keys"),
        ({"enum": []}, "does not compile|has no answer"),
        ({"$ref": "#/$defs/none"}, "does not compile"),
        (
            {
                "type": "object",
                "properties": {f"p{number}": {} for number in range(6000)},
                **FIXED,
            },
            f"# has 6000 properties that are not required, and {OPTIONAL} can be",
        ),
        ({"type": "string", "title": "\ud83d"}, "json_schema is not Unicode"),
        ([1], "json_schema must be a JSON object"),
        ("[1]", "json_schema must be a JSON object"),
    ],
    ids=lambda one: repr(one)[:50],
)
def test_schemas_that_can_not_be_honoured(schema, message):
    refused(message, json_schema=schema)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"regex": r"[^\s\S]"}, "regex has no answer"),
        ({"regex": r"a[^\s\S]b"}, "regex has no answer"),
        ({"regex": "a{1000000000}"}, "regex does not compile: lexer error: too many"),
        ({"regex": "(" * 2000 + "a" + ")" * 2000}, "regex does not compile"),
        ({"grammar": "start: start"}, "grammar has no answer"),
        ({"grammar": 'start: "x" start'}, "grammar does not compile: .*too many items"),
    ],
)
def test_other_forms_that_can_not_be_followed(form, message):
    began = time.monotonic()
    with pytest.raises(InvalidRequestError, match="(?si)" + message):
        SamplingParams(**form)
    assert time.monotonic() - began < 60  # a second alone


@pytest.mark.parametrize(
    "form",
    [
        {"regex": "(x+x+)+y"},
        {"regex": "(a{1,1000}){1,1000}"},
        {"regex": r"(a|b)*a(a|b){20}"},
        {"json_schema": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9}},
        {"json_schema": {"type": "string", "maxLength": 2**31 - 1}},
        {"json_schema": nested(NESTED // 2, {"type": "null"})},
        {"json_schema": chain(LEVELS // 2)},
    ],
    ids=lambda one: repr(one)[:50],
)
def test_forms_that_look_hard_and_are_not(form):
    began = time.monotonic()
    SamplingParams(**form)
    assert time.monotonic() - began < 20


def test_a_grammar_that_the_library_never_begins():
    """In a process of its own, since the search goes on."""
    code = (
        "from stoker.engine.request import constraint\n"
        "constraint.PATIENCE = 0.5\n"
        "from stoker import SamplingParams\n"
        "try:\n"
        "    SamplingParams(grammar='start: /a+/ /a+/+\\n')\n"
        "except ValueError as problem:\n"
        "    print(problem)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "what may come first is not found" in done.stdout


def test_the_first_bytes_are_tried_and_no_more():
    """An answer that is longer than what is tried is no dead end."""
    SamplingParams(regex=f"[a-z]{{{TRIED + 5}}}")


# -- in jobs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("false", "json_schema is false"),
        ('{"$ref": "#"}', ENDLESS),
        ('{"type": "integer", "minimum": 10000000000000000000}', "can't be given"),
        ('{"type": "strin"}', "Invalid type"),
    ],
)
def test_a_job_is_refused_before_the_model_is_loaded(tmp_path, capsys, monkeypatch, text, message):
    (tmp_path / "in.jsonl").write_text('{"prompt": "x"}\n')
    (tmp_path / "schema.json").write_text(text)
    monkeypatch.setattr(LLM, "__init__", lambda *args, **rest: pytest.fail("the model is loaded"))
    out = tmp_path / "out.jsonl"
    flags = ["--schema", str(tmp_path / "schema.json"), "-q", "--no-report"]
    assert main(["run", str(tmp_path / "in.jsonl"), "-o", str(out), *flags]) == 1
    found = capsys.readouterr().err
    assert message in found
    assert "Traceback" not in found
    assert not out.exists()


def test_a_row_with_a_bad_form_fails_alone(tmp_path, text_model):
    """In a batch file, where each row brings its own."""

    def row(name, **body):
        body = {"prompt": "hello", "max_tokens": 60, "temperature": 0, **body}
        return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body}

    def strict(schema):
        return {"type": "json_schema", "json_schema": {"schema": schema}}

    bad = [False, {"$ref": "#"}, {"type": "strin"}, chain(LEVELS + 1), {"const": 2**53 + 1}]
    rows = [row("fine", choice=["left", "right"]), row("any", response_format=strict(True))]
    rows += [row(f"bad {at}", response_format=strict(one)) for at, one in enumerate(bad)]
    rows += [row("empty", choice=[]), row("named", guided_json={}), row("last", regex="ab")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    out = tmp_path / "out.jsonl"
    command = ["run", str(tmp_path / "in.jsonl"), "-o", str(out), "-m", text_model]
    assert main([*command, "-q", "--no-report", "--ordered"]) == 3
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["custom_id"] for one in found] == [one["custom_id"] for one in rows]
    codes = {one["custom_id"]: one["response"]["status_code"] for one in found}
    assert {name for name, code in codes.items() if code == 200} == {"fine", "any", "last"}
    assert set(codes.values()) == {200, 400}
    told = {
        one["custom_id"]: one["response"]["body"]["error"]["message"]
        for one in found
        if codes[one["custom_id"]] == 400
    }
    assert "it is json_schema" in told["named"]
    assert "no answer that ends" in told["bad 1"]
    assert found[0]["response"]["body"]["choices"][0]["text"] in ("left", "right")
    assert found[-1]["response"]["body"]["choices"][0]["text"] == "ab"
