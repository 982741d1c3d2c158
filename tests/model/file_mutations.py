"""Damages JSON and safetensors files at random, the same way for the same seed."""

import copy
import json

# what stands in files by mistake, or is at the edge of what a type holds
VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    64,
    1000,
    65_536,
    10**6,
    2**31 - 1,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    10**12,
    10**30,
    10**400,
    -(2**63),
    0.0,
    0.5,
    1.0,
    -0.5,
    1e-320,
    1e-30,
    1e30,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "x",
    "12",
    "1e-5",
    "true",
    "None",
    "null",
    "default",
    "yarn",
    "linear",
    "llama",
    "gpt2",
    "float32",
    "torch.bfloat16",
    "../config.json",
    "\x00",
    "\ud800",
    "é",
    "<|end|>",
    "a" * 5000,
    [],
    {},
    [None],
    [0],
    ["x"],
    [[]],
    [1, 2, 3],
    {"x": 1},
    {"content": "x"},
    {"": {}},
    {"0": None},
)


def deep(depth):
    """A list inside a list, `depth` times."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


def places(value, path=()):
    """The paths of everything inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inside:
        yield (*path, key)
        if isinstance(one, dict | list) and len(one) < 100:
            yield from places(one, (*path, key))


def mutate(value, rng):
    """A changed copy of a JSON value, and the path of what was changed."""
    value = copy.deepcopy(value)
    tops = list(value)
    if not tops:
        return {"x": rng.choice(VALUES)}, ("x",)
    # each field at the top as often as every other, whatever is inside
    top = rng.choice(tops)
    path = (top,)
    if isinstance(value[top], dict | list) and value[top] and rng.random() < 0.7:
        path = rng.choice([(top, *inner) for inner in places(value[top])])
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key, kind = path[-1], rng.random()
    if kind < 0.12:
        del holder[key]
    elif kind < 0.2 and isinstance(holder, dict):
        holder[rng.choice(("x", key + "s", "", "type", "rope_type"))] = holder.pop(key)
    elif kind < 0.25:
        holder[key] = deep(rng.choice((1, 5, 200)))
    elif kind < 0.35:
        other = rng.choice(tops)
        holder[key] = copy.deepcopy(value.get(other)) if other != top else str(holder[key])
    elif kind < 0.42 and isinstance(holder[key], int | float):
        holder[key] = rng.choice((str, float, lambda n: n + 1, lambda n: -n, lambda n: [n]))(
            holder[key]
        )
    elif kind < 0.47 and isinstance(holder[key], list):
        holder[key] = holder[key] * rng.choice((0, 2, 5))
    else:
        holder[key] = rng.choice(VALUES)
    return value, path


def mutate_bytes(data, rng, end=None):
    """`data` with some bytes changed, taken out or put in, all of them before `end`."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        end = min(end or len(data), len(data))
        if not end:
            break
        at, kind = rng.randrange(end), rng.random()
        if kind < 0.5:
            data[at] = rng.randrange(256)
        elif kind < 0.7:
            del data[at : at + rng.randint(1, 9)]
        elif kind < 0.9:
            data[at:at] = rng.choice((b"{", b"}", b"[", b'"', b",", b"\xff", b"0", b"\xef\xbb\xbf"))
        else:
            del data[at:]
    return bytes(data)


def mutate_text(text, rng):
    """A JSON file's bytes, changed: in its values, mostly; and the keys on the way to these."""
    if rng.random() < 0.15:
        return mutate_bytes(text.encode(), rng), []
    fields, keys = json.loads(text), []
    for _ in range(rng.choice((1, 1, 1, 2))):
        fields, path = mutate(fields, rng)
        keys += [str(key) for key in path]
    return json.dumps(fields).encode("utf-8", "surrogatepass"), keys


def mutate_safetensors(data, rng):
    """The bytes of a safetensors file with a changed header; the tensors stay."""
    size = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + size], data[8 + size :]
    kind = rng.random()
    if kind < 0.15:
        return mutate_bytes(data, rng, 8 + size)
    if kind < 0.25:
        length = rng.choice((0, 1, 7, size - 1, size + 1, 2 * size, 10**8, 2**63, 2**64 - 1))
        return length.to_bytes(8, "little") + header + tensors
    fields = json.loads(header)
    name, other = rng.sample(sorted(fields.keys() - {"__metadata__"}), 2)
    if kind < 0.45:
        field = rng.choice(("dtype", "shape", "data_offsets"))
        fields[name][field] = rng.choice(
            {
                "dtype": ("F64", "F16", "I8", "BOOL", "F8_E4M3", "F4", "C64", "X", "", None, 7),
                "shape": ([], [0], [1], [-1], [2**62, 4], [2**64], ["1"], None, [1.5], [[1]]),
                "data_offsets": ([0, 0], [0], [4, 0], [0, 2**63], [-1, 1], None, "x", [0, 8]),
            }[field]
        )
    elif kind < 0.7:
        fields = _consistent(fields, name, other, rng)
    else:
        fields, _ = mutate(fields, rng)
    header = json.dumps(fields).encode("utf-8", "surrogatepass")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + tensors


def _consistent(fields, name, other, rng):
    """A header that is sound in itself."""
    kind = rng.randrange(6)
    if kind == 0:
        fields[name]["dtype"] = rng.choice(("I32", "U32", "F32"))
    elif kind == 1:
        fields[name]["shape"].reverse()
    elif kind == 2:
        fields[name]["shape"].append(1)
    elif kind == 3:
        fields[name], fields[other] = fields[other], fields[name]
    elif kind == 4:
        fields[rng.choice(("", "x", name + ".x", "\x00", "a" * 5000))] = fields.pop(name)
    else:
        fields["__metadata__"] = rng.choice(({}, {"format": "pt"}, {"format": "tf"}, {"": ""}))
    return fields
