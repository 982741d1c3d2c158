"""The most tokens a request may grow to, by the context, the cache and what it asks for.

With a context of 1,024 tokens and a cache of 40 blocks of 16, which hold 640 tokens:

    prompt   max_tokens   limit
       100          200     300
       100         None     640   the cache ends it before the context does
       100          700           refused: it may grow to 800
     1,024            1           refused: no room for an answer
"""

from __future__ import annotations

from stoker.engine.blocks.cache_pool import CachePool
from stoker.engine.request.pooling import prompt_limit
from stoker.engine.request.request import Request
from stoker.errors import InvalidRequestError


def length_limit(request: Request, pool: CachePool, max_context: int) -> int:
    """The most tokens `request` may have, prompt and answer together.

    Args:
        pool: the cache, of which one sequence may take all.
        max_context: most tokens of any sequence.

    Raises:
        InvalidRequestError: it could never run; the message has the numbers that say why.
    """
    prompt = len(request.prompt_token_ids)
    if prompt == 0:
        raise InvalidRequestError("the prompt is empty; it needs at least one token")
    if request.pooling is None and prompt >= max_context:
        raise InvalidRequestError(
            f"the prompt has {prompt} tokens and the context is {max_context}, which "
            f"leaves no room for an answer; shorten it to {max_context - 1} or less"
        )
    capacity = int(min(pool.max_length, max(max_context, prompt + 1)))
    if request.pooling:
        return prompt_limit(prompt, max_context, capacity)
    most = request.params.max_tokens
    wanted = max_context if most is None else min(prompt + most, max_context)
    if prompt + 1 > capacity or (most is not None and wanted > capacity):
        group = pool.groups[pool.tightest]
        whole = "the whole cache"
        if len(pool.pools) > 1:
            window = f"a window of {group.window}" if group.window else "no window"
            whole += f" of the layers with {window}"
        raise InvalidRequestError(
            f"the request may grow to {wanted} tokens ({prompt} of prompt), "
            f"{pool.blocks_for(wanted)} cache blocks, and {whole} has "
            f"{group.num_blocks} blocks of {pool.block_size}; "
            "lower max_tokens or give the cache more memory"
        )
    return min(wanted, capacity)
