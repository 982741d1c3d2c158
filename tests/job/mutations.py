"""Damage to rows as files meet it: bytes changed, and values replaced by others."""

import csv
import decimal
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PIECES = [  # that upset readers
    *(b"1e999", b"-1e999", b"NaN", b"-Infinity", b"7" * 5000, b"1" + b"0" * 400, b"1.5e-400"),
    *(
        b'"',
        b'\\"',
        b"\\",
        b"\\u",
        b"\\ud800",
        b"\\u0000",
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
    ),
    *(b"\n", b"\r", b"\r\n", b"\t", b",", b";", b"|", b":", b",,,,", b"[" * 3000, b'{"a":' * 3000),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"null",
        b"true",
        b"sep=;",
        "\u2028😀".encode(),
        b"{{ x }}",
        b"{% if",
    ),
]
VALUES = [
    *(None, True, False, 0, 1, -1, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, float("nan")),
    *(
        "",
        "x",
        "\0",
        "\ud800",
        "x" * 3000,
        "1",
        "nan",
        "auto",
        "json_object",
        [],
        [[]],
        {},
        {"": {}},
    ),
    *(
        [None],
        [1, "a"],
        [[1]],
        {"type": "text", "text": "a"},
        {"role": "user"},
        {"role": [], "content": 1},
    ),
    *([{"role": "user", "content": "hi"}], [{"type": "image_url", "image_url": {"url": "x"}}]),
    *({"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}, {"1": 5}, {"x": None}),
]
ROWS = [
    {"prompt": "hello", "n": 1, "x": 1.5, "more": {"a": [None, True, "é"]}},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "expected": "a"},
    {"prompt_token_ids": [1, 2, 3], "sampling": {"max_tokens": 2, "stop": ["a"], "seed": 3}},
    {"prompt": "hello", "sampling": '{"temperature": 0.5, "n": 2, "logit_bias": {"3": 1.5}}'},
]
BODIES = [
    {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "temperature": 1, "n": 2},
    {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2},
    {
        "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    },
    {"prompt": "once", "max_tokens": 3, "logprobs": 1, "stop": ["a", "b"], "echo": False},
    {"prompt": [1, 2, 3], "logit_bias": {"5": -100}, "seed": 1, "top_p": 0.5, "user": "u"},
]
REQUESTS = [
    {
        "custom_id": f"r{at}",
        "method": "POST",
        "url": CHAT if "messages" in body else TEXT,
        "body": body,
    }
    for at, body in enumerate(BODIES)
]


def damaged(rng, data, times=3):
    """The bytes with up to `times` changes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, times)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.choice(PIECES)
        elif kind == 2:
            del data[at : at + rng.randint(1, 8)]
        elif kind == 3:
            data[at : at + rng.randint(1, 8)] = rng.choice(PIECES)
        elif kind == 4:
            data[at:at] = data[max(0, at - rng.randint(1, 30)) : at]
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 4))
    return bytes(data)


def changed(rng, value, chance=0.12):
    """The value with some of its parts replaced, dropped or put under other names."""
    if rng.random() < chance:
        return rng.choice(VALUES)
    if isinstance(value, dict):
        found = {}
        for name, one in value.items():
            if rng.random() < chance / 2:
                continue
            other = rng.choice(["", "x", "result", "response", "temperature", "prompt", "stream"])
            found[other if rng.random() < chance / 2 else name] = changed(rng, one, chance)
        return found
    if isinstance(value, list):
        return [changed(rng, one, chance) for one in value] * rng.choice([1, 1, 1, 1, 0, 2])
    return value


def lines_of_json(rng, count):
    """Lines of JSON Lines: good ones, ones with other values, and damaged ones."""
    for _ in range(count):
        row = rng.choice(ROWS + REQUESTS)
        kind = rng.randrange(3)
        if kind:
            row = changed(rng, row)
        line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        yield damaged(rng, line) if kind == 2 else line


def table_of_text(rng, count):
    """The bytes of a CSV, damaged or not, and its delimiter."""
    delimiter = rng.choice(",;\t|:")
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=delimiter,
        lineterminator=rng.choice(["\n", "\r\n", "\r"]),
        quoting=rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    )
    writer.writerow(["prompt", "n", "x y"])
    for at in range(count):
        writer.writerow([f"hello, {at}", at, rng.choice(["", 'a "b"', "é\n;", "|"])])
    data = text.getvalue().encode()
    for _ in range(rng.randint(0, 6)):
        data = damaged(rng, data)
    return data, delimiter


def table_of_columns(rng, count):
    """An Arrow table with columns of types drawn at random."""
    numbers = [rng.randrange(-(2**50), 2**50) for _ in range(count)]
    stamp = pa.timestamp(rng.choice(["s", "ms", "us", "ns"]), rng.choice([None, "Europe/Berlin"]))
    makers = {
        "stamp": lambda: pa.array(numbers, stamp),
        "date": lambda: pa.array([one % 10**7 - 10**6 for one in numbers], pa.date32()),
        "floats": lambda: pa.array([[one / 3] * (one % 3) for one in numbers]),
        "half": lambda: pa.array([float(one % 99) for one in numbers], pa.float16()),
        "struct": lambda: pa.array([{"a": one, "b": ["x"]} for one in numbers]),
        "map": lambda: pa.array(
            [[("k", one)] for one in numbers], pa.map_(pa.string(), pa.int64())
        ),
        "names": lambda: pa.array([rng.choice("abc") for _ in numbers]).dictionary_encode(),
        "decimal": lambda: pa.array(
            [decimal.Decimal(one) for one in numbers], pa.decimal256(60, 3)
        ),
        "bytes": lambda: pa.array([rng.randbytes(4) for _ in numbers]),
    }
    columns = {"prompt": pa.array([f"hello {one}" for one in numbers])}
    chosen = rng.sample(sorted(makers), rng.randrange(4))
    return pa.table(columns | {name: makers[name]() for name in chosen})


def write_columns(rng, table, path):
    """Write the table as the path's name says, with settings drawn at random."""
    if path.suffix == ".parquet":
        pq.write_table(
            table,
            path,
            row_group_size=rng.choice([30, 1000]),
            compression=rng.choice(["none", "snappy", "zstd", "gzip"]),
            use_dictionary=rng.random() < 0.5,
            data_page_version=rng.choice(["1.0", "2.0"]),
        )
        return
    new = pa.ipc.new_stream if path.suffix == ".arrow" else pa.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=40)


def with_wrong_bits(rng, data):
    """The bytes of a binary file with a few of them changed, mostly not at its end."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(8, len(data) if rng.random() < 0.4 else len(data) * 2 // 3)
        if rng.random() < 0.8:
            data[at] ^= 1 << rng.randrange(8)
        else:
            data[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
    return bytes(data[: rng.randrange(20, len(data))] if rng.random() < 0.05 else data)
