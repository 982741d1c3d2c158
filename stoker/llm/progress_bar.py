"""The bar that `use_tqdm` asks for: requests done, and tokens a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from stoker.engine.request.request import RequestOutput

UseTqdm = bool | Callable[..., Any]
Watcher = Callable[[RequestOutput], None]


@contextlib.contextmanager
def progress_bar(use_tqdm: UseTqdm, total: int) -> Iterator[Watcher]:
    """Show a bar while in the context; what it gives is to be called with each finished output.

    Args:
        use_tqdm: True, or what is to be called in place of `tqdm.auto.tqdm`.
        total: how many outputs there will be.
    """
    make = use_tqdm if callable(use_tqdm) else _tqdm()
    tokens, began = 0, time.monotonic()
    with make(total=total, desc="Processed prompts", unit="prompt", dynamic_ncols=True) as bar:

        def finished(output: RequestOutput) -> None:
            nonlocal tokens
            tokens += sum(len(one.token_ids) for one in output.outputs)
            speed = tokens / max(time.monotonic() - began, 1e-9)
            bar.set_postfix_str(f"{speed:.0f} tokens/s", refresh=False)
            bar.update(1)

        yield finished


def _tqdm() -> Callable[..., Any]:
    from tqdm.auto import tqdm

    return tqdm  # type: ignore[no-any-return]
