"""Looks at everything, in the order in which it is shown."""

from __future__ import annotations

from stoker.doctor.finding import Finding
from stoker.doctor.hub import examine_hub, start_probe


def examine() -> list[Finding]:
    """What there is on this machine. Takes no longer than PyTorch's import and a second.

    Raises:
        ConfigError: STOKER_CPU_LEVEL asks for what the processor does not have.
    """
    probe = start_probe()  # answers while torch is imported
    import torch  # noqa: F401  # kernels share its OpenMP

    from stoker.doctor.kernels import examine_kernels
    from stoker.doctor.machine import examine_machine
    from stoker.doctor.torch_and_gpu import examine_torch

    return [*examine_kernels(), *examine_torch(), *examine_machine(), *examine_hub(probe)]
