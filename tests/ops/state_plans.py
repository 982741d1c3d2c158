"""Plans of states made by hand, and a step's tokens cut in other ways."""

import torch

from stoker.ops.state_plan import StatePlan


def make_plan(lengths, slots, fresh):
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return StatePlan(torch.tensor(slots), starts, torch.tensor(fresh), max(lengths, default=0))


def run_in_steps(run, tensors, lengths, cuts):
    """What `run(tensors, plan)` gives, over several steps, each sequence's rows joined again.

    Args:
        run: from some rows of the tensors and a plan to rows.
        tensors: (T, ...) each, of sequences of these lengths, which lie in slots of their own.
        cuts: of each step, how many tokens of each sequence it takes; 0 leaves a sequence out.
    """
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1].tolist()
    done, parts = [0] * len(lengths), [[] for _ in lengths]
    for step in cuts:
        who = [s for s, count in enumerate(step) if count]
        rows = torch.cat([torch.arange(step[s]) + starts[s] + done[s] for s in who])
        plan = make_plan(
            [step[s] for s in who], [2 * s + 1 for s in who], [not done[s] for s in who]
        )
        found = run([one[rows] for one in tensors], plan).split([step[s] for s in who])
        for s, part in zip(who, found, strict=True):
            parts[s].append(part)
            done[s] += step[s]
    assert done == list(lengths)
    return torch.cat([torch.cat(one) for one in parts])


LENGTHS = (35, 1, 33, 5, 2)
CUTS = {
    "whole": [LENGTHS],
    "chunks": [(2, 1, 0, 3, 0), (32, 0, 32, 1, 2), (1, 0, 1, 1, 0)],
    "alone": [tuple(n if s == t else 0 for t, n in enumerate(LENGTHS)) for s in range(5)],
    "stepwise": [tuple(int(turn < n) for n in LENGTHS) for turn in range(max(LENGTHS))],
}
