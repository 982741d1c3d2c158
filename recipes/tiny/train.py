"""Trains one of the tiny models on the CPU within a budget of wall-clock minutes.

Plain PyTorch, seeded and resumable; learning rate and curriculum follow the share of the
budget that is used up. Does not export: export.py turns the checkpoint into a model folder.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from data import Batch, Batches
from model import TinyModel
from parts import SHAPES
from skills import SKILLS, evaluation_cases
from torch import Tensor

WARM_UP_STEPS = 60
MATRIX_RATE = 0.02
OTHER_RATE = 3e-3
SMALLEST_MATRIX = 16
CHECKPOINT_SECONDS = 200
PROBES = 64


def optimisers(model: TinyModel) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embedding, gains, routers and gates."""
    matrices, others = [], []
    for name, weight in model.named_parameters():
        hidden = weight.ndim == 2 and min(weight.shape) >= SMALLEST_MATRIX and "embed" not in name
        (matrices if hidden else others).append(weight)
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate_factor(step: int, progress: float) -> float:
    """Warm-up, a flat part, then a cosine fall to zero."""
    fall = max(0.0, (progress - 0.25) / 0.75)
    return min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))


def batch_loss(model: TinyModel, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy over the targets that count."""
    ids, weights = torch.from_numpy(batch.ids), torch.from_numpy(batch.weights).flatten()
    counted = weights.nonzero().squeeze(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model(ids[:, :-1]).flatten(0, 1)[counted]
        logits = model.logits(hidden)
    losses = F.cross_entropy(logits.float(), ids[:, 1:].flatten()[counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


@torch.no_grad()
def probe(model: TinyModel, batches: Batches) -> dict[str, float]:
    """Share of held-out cases whose whole answer is the most likely one, per skill.

    Every answer token must be the argmax given the right ones before it, which is the same
    as greedy decoding giving the right answer.
    """
    scores = {}
    for skill in SKILLS:
        right = 0
        cases = evaluation_cases(skill, PROBES, seed=1)
        chats = sorted((batches.encode(case) for case in cases), key=lambda chat: len(chat[0]))
        for start in range(0, PROBES, 16):
            part = chats[start : start + 16]
            length = max(len(ids) for ids, _ in part)
            ids = torch.tensor([c + [0] * (length - len(c)) for c, _ in part])
            mask = torch.tensor([m + [0] * (length - len(m)) for _, m in part])[:, 1:] == 1
            with torch.autocast("cpu", dtype=torch.bfloat16):
                best = model.logits(model(ids[:, :-1])).argmax(-1)
            right += int(((best == ids[:, 1:]) | ~mask).all(1).sum())
        scores[skill] = right / PROBES
    return scores


@dataclass
class Spent:
    """What a run has used up so far: steps, seconds of the budget, tokens."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0


def save(path: Path, model: TinyModel, optims: list[torch.optim.Optimizer], spent: Spent) -> None:
    """Write the checkpoint in one move."""
    state = {
        "shape": model.shape.as_dict(),
        "model": model.state_dict(),
        "optimisers": [o.state_dict() for o in optims],
        "spent": asdict(spent),
    }
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def restore(path: Path, model: TinyModel, optims: list[torch.optim.Optimizer]) -> Spent:
    """Take up a checkpoint, if there is one."""
    if not path.exists():
        return Spent()
    state = torch.load(path)
    model.load_state_dict(state["model"])
    for optim, saved in zip(optims, state["optimisers"], strict=True):
        optim.load_state_dict(saved)
    return Spent(**state["spent"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint file")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="main")
    parser.add_argument("--minutes", type=float, default=48)
    parser.add_argument(
        "--batch",
        type=int,
        nargs=2,
        default=(6144, 4096),
        help="tokens of a batch in the first half and in the second",
    )
    parser.add_argument(
        "--switch",
        type=float,
        default=0.5,
        help="share of the run after which sorting and arithmetic take over; 1 for never",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Threads:
    """Picks one thread or all, whichever is faster while other programs share the cores.

    With a busy neighbour two threads wait for the slower of them, and one alone is faster.
    """

    def __init__(self, most: int) -> None:
        self.seconds = dict.fromkeys({1, most}, 0.0)
        self.now = most
        self.steps = 0

    def choose(self) -> None:
        """Set the count for the next step; every sixteenth step tries the other one."""
        best = min(self.seconds, key=lambda count: self.seconds[count])
        self.steps += 1
        self.now = max(self.seconds, key=lambda c: c != best) if self.steps % 16 == 0 else best
        torch.set_num_threads(self.now)

    def record(self, seconds_per_token: float) -> None:
        """Remember how long the step took."""
        self.seconds[self.now] = seconds_per_token


def train_step(
    model: TinyModel, optims: list[torch.optim.Optimizer], batch: Batch, factor: float
) -> float:
    """One update of all weights; gives the loss."""
    for optim, top in zip(optims, (MATRIX_RATE, OTHER_RATE), strict=True):
        for group in optim.param_groups:
            group["lr"] = top * factor
    loss = batch_loss(model, batch)
    loss.backward()
    for optim in optims:
        optim.step()
        optim.zero_grad()
    model.balance()
    return loss.item()


def train(args: argparse.Namespace) -> None:
    """Run until the budget is used up; takes up a checkpoint where it finds one."""
    torch.manual_seed(args.seed)
    threads = Threads(args.threads)
    model = TinyModel(SHAPES[args.shape])
    optims = optimisers(model)
    batches = Batches(args.data, args.seed, args.switch)
    spent = restore(args.out, model, optims)
    print(sum(p.numel() for p in model.parameters()), "parameters, from", spent, flush=True)
    budget, began = args.minutes * 60, time.monotonic() - spent.seconds
    losses: deque[float] = deque(maxlen=50)
    saved_at, ahead = spent.seconds, ThreadPoolExecutor(1)
    progress = spent.seconds / budget
    coming = ahead.submit(batches.make, spent.step, progress, args.batch[progress >= 0.5])
    while spent.seconds < budget:
        progress = spent.seconds / budget
        threads.choose()
        batch = coming.result()
        tokens = args.batch[progress >= 0.5]
        coming = ahead.submit(batches.make, spent.step + 1, progress, tokens)
        losses.append(train_step(model, optims, batch, rate_factor(spent.step, progress)))
        spent.step, spent.tokens = spent.step + 1, spent.tokens + batch.weights.size
        took, spent.seconds = time.monotonic() - began - spent.seconds, time.monotonic() - began
        threads.record(took / batch.weights.size)
        if spent.step % 50 == 0:
            print(f"{spent} loss {sum(losses) / len(losses):.4f}", flush=True)
        if spent.seconds - saved_at > CHECKPOINT_SECONDS:
            saved_at = spent.seconds
            save(args.out, model, optims, spent)
            print(probe(model, batches), flush=True)
    save(args.out, model, optims, spent)
    print("done:", spent, probe(model, batches), flush=True)


if __name__ == "__main__":
    train(arguments())
