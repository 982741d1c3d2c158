"""Counts the arithmetic and the bytes of a step from a model's spec; measures nothing.

Each part of a layer says what it costs (spec/); here that is summed up. The meter and the
benchmarks divide these counts by measured rates.
"""

from __future__ import annotations

from stoker.model.spec.model import ModelSpec


def matmul_flops(spec: ModelSpec, tokens: int, sampled: int) -> int:
    """FLOPs of the weight products for `tokens` tokens, `sampled` of which get logits."""
    body = sum(layer.product_weights(spec.hidden) for layer in spec.layers)
    width = spec.embedding_width or spec.hidden
    way_out = spec.hidden * width if spec.embedding_width else 0
    way_out += spec.head_map.weights(spec.hidden) if spec.head_map else 0
    return 2 * (tokens * (body + spec.around_weights) + sampled * (way_out + width * spec.vocab))


def attention_flops(spec: ModelSpec, query_key_pairs: int) -> int:
    """FLOPs of scores and mixing, for the number of (query, visible key) pairs per layer."""
    return query_key_pairs * sum(layer.flops_per_pair for layer in spec.layers)


def state_flops(spec: ModelSpec, tokens: int) -> int:
    """FLOPs of `tokens` tokens where they meet their sequences' states: scans and convolutions."""
    return tokens * sum(layer.state_flops for layer in spec.layers)


def kv_bytes_per_token(spec: ModelSpec, element_size: int) -> int:
    """Bytes that one token takes in the cache over all layers."""
    return element_size * sum(group.elements_per_token for group in spec.cache_groups)


def state_bytes(spec: ModelSpec, element_size: int) -> int:
    """Bytes of a sequence's states over all layers, however long it is.

    What need not be float32 takes `element_size`.
    """
    return sum(group.bytes_per_sequence(element_size) for group in spec.cache_groups)


def step_bytes(spec: ModelSpec, contexts: list[int], weight_size: int, element_size: int) -> int:
    """Bytes that a decode step reads: weights once, the keys and values that each sequence sees.

    Of experts those count that the tokens are expected to take.

    Two sequences of 30 and 100 tokens, in a layer with a window of 64 and one without, see 30 + 64
    and 30 + 100 tokens. Their states are read and written as a whole, which counts as two reads.

    Args:
        contexts: tokens of each sequence, the new one included.
        weight_size, element_size: bytes of a weight and of a number in the cache.
    """
    parts = (part for layer in spec.layers for part in layer.parts)
    unread = sum(part.unread_weights(spec.hidden, len(contexts)) for part in parts)
    weights = spec.parameters() - spec.looked_up - round(unread)
    seen = 0
    for group in spec.cache_groups:
        window = group.window
        tokens = sum(contexts if window is None else (min(one, window) for one in contexts))
        sources = [layer.mixer.reads for layer in spec.layers if layer.mixer]
        readers = sum(source in group.layers for source in sources)
        seen += (
            tokens * group.elements_per_token * (len(group.layers) + readers) // len(group.layers)
        )
    states = 2 * len(contexts) * state_bytes(spec, element_size)
    return weights * weight_size + seen * element_size + states
