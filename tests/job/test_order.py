"""Results in the order of the input, as soon as they are next."""

import json

from hypothesis import given
from hypothesis import strategies as st

from stoker.job.order import InOrder, OrderedFile


@given(st.data())
def test_each_row_is_given_once_and_as_soon_as_it_is_next(data):
    """Against a slow twin, with gaps between numbers, and rows of an earlier run among them."""
    numbers = sorted(data.draw(st.sets(st.integers(1, 60), max_size=25)))
    earlier = [n for n in numbers if data.draw(st.booleans())]
    order = InOrder()
    for number in data.draw(st.permutations(earlier)):
        order.found(number, 100 * number)
    read = done = 0
    finished, given_out = set(earlier), []
    rest = data.draw(st.permutations([n for n in numbers if n not in finished]))
    while read < len(numbers) or done < len(rest):
        ready = done < len(rest) and rest[done] in numbers[:read]
        if read < len(numbers) and (not ready or data.draw(st.booleans())):
            order.expect(numbers[read])
            read += 1
        elif ready:
            order.found(rest[done], 100 * rest[done])
            finished.add(rest[done])
            done += 1
        given_out += order.take()
        slow = []
        for number in numbers[:read]:
            if number not in finished:
                break
            slow.append(100 * number)
        assert given_out == slow
        assert order.held_up == (len(slow) < read)
    order.expect_no_more()
    assert [*given_out, *order.take()] == [100 * number for number in numbers]


def test_many_rows_behind_one(tmp_path):
    """A long row holds up more than is written at once."""
    journal, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"n": n, "text": "x" * 1000}).encode() + b"\n" for n in range(3000)]
    order, offset = InOrder(), 0
    journal.write_bytes(b"".join(reversed(lines)))
    file = OrderedFile(output, journal, order)
    for number in range(3000):
        order.expect(number)
    for number in range(2999, -1, -1):
        assert output.stat().st_size == 0
        order.found(number, offset)
        offset += len(lines[number])
        file.advance()
    file.finish()
    file.close()
    assert output.read_bytes() == b"".join(lines)
