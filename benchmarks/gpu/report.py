"""Results beside bounds and goals: what is added to a case's figures, and how they are printed."""

from __future__ import annotations

from typing import Any

from bounds import H200, bounds
from cases import CASES, DECODE_GOALS, HOST_GOAL, LOAD_GOAL
from models import config_of, spec_of

WIDTHS = (20, 10, 9, 7, 10, 7, 10, 7, 9)
HEADS = ("case", "out tok/s", "goal", "of it", "bound", "share", "overlap", "share", "host")


def with_bounds(name: str, found: dict[str, Any], smoke: bool) -> dict[str, Any]:
    """A case's result with its goal, both bounds in output tokens/s, and the shares reached."""
    case = CASES[name]
    work = case.tiny() if smoke else case.work()
    limits = bounds(
        spec_of(config_of(case.model, smoke)),
        work,
        found["running"],
        weight_bytes=1 if case.options.get("dtype") == "fp8" else 2,
        kv_bytes=1 if "kv_dtype" in case.options else 2,
    )
    rate = found["output_tokens_per_s"]
    sequential = work.output_tokens / limits.sequential
    overlap = work.output_tokens / limits.overlap
    return found | {
        "goal": case.goal,
        "share_of_goal": rate / case.goal,
        "bound_rates": H200.name,
        "bound_sequential": sequential,
        "share_of_sequential": rate / sequential,
        "bound_overlap": overlap,
        "share_of_overlap": rate / overlap,
        "bound_seconds": vars(limits),
    }


def line(*cells: str) -> str:
    return cells[0].ljust(WIDTHS[0]) + "".join(
        cell.rjust(width) for cell, width in zip(cells[1:], WIDTHS[1:], strict=True)
    )


def shown(name: str, found: dict[str, Any]) -> str:
    """A result as a line or two."""
    if "failed" in found or "skipped" in found:
        kind = "failed" if "failed" in found else "skipped"
        return f"{name:20} {kind}: {found[kind]}"
    if name in CASES:
        host = found.get("decode_step", {}).get("host_share")
        return line(
            name + (" (cut)" if found["cut"] else ""),
            f"{found['output_tokens_per_s']:,.0f}",
            f"{found['goal']:,.0f}",
            f"{found['share_of_goal']:.0%}",
            f"{found['bound_sequential']:,.0f}",
            f"{found['share_of_sequential']:.0%}",
            f"{found['bound_overlap']:,.0f}",
            f"{found['share_of_overlap']:.0%}",
            "-" if host is None else f"{host:.1%}",
        )
    if name == "kernels":
        rates = "  ".join(
            f"{kind} {rate:.2f} TB/s (goal {DECODE_GOALS[kind]})"
            for kind, rate in found["decode_TB_s"].items()
        )
        return f"{name:20} copy {found['copy_TB_s']:.2f} TB/s; decode attention {rates}"
    if name == "loading":
        seconds = found["second"]["first_token_s"]
        return f"{name:20} first token after {seconds:.1f} s (goal {LOAD_GOAL:.0f})"
    rates = [
        f"{one} {found[one]['output_tokens_per_s']:,.0f}" for one in ("stoker", "transformers")
    ]
    return f"{name:20} {', '.join(rates)} output tokens/s, ratio {found['ratio']:.2f}"


def heading() -> str:
    return line(*HEADS) + f"   (bounds of an {H200.name}; host below {HOST_GOAL:.0%})"
