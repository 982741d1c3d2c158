"""Counts the arithmetic of a model from its spec; measures nothing.

The meter and the benchmarks divide these counts by measured rates.
"""

from __future__ import annotations

from stoker.model.spec import LayerSpec, ModelSpec


def layer_matmul_params(hidden: int, layer: LayerSpec) -> int:
    """Weights of a layer that take part in matrix products."""
    mixer = layer.mixer
    projections = hidden * mixer.head_dim * (2 * mixer.heads + 2 * mixer.kv_heads)
    return projections + (3 if layer.ffn.gated else 2) * hidden * layer.ffn.size


def matmul_flops(spec: ModelSpec, tokens: int, sampled: int) -> int:
    """FLOPs of the weight products for `tokens` tokens, `sampled` of which get logits."""
    body = sum(layer_matmul_params(spec.hidden, layer) for layer in spec.layers)
    width = spec.embedding_width or spec.hidden
    around = spec.hidden * width if spec.embedding_width else 0
    return 2 * (tokens * (body + around) + sampled * (around + width * spec.vocab))


def attention_flops(spec: ModelSpec, query_key_pairs: int) -> int:
    """FLOPs of scores and mixing, for the number of (query, visible key) pairs per layer."""
    return sum(
        4 * query_key_pairs * layer.mixer.heads * layer.mixer.head_dim for layer in spec.layers
    )


def kv_bytes_per_token(spec: ModelSpec, element_size: int) -> int:
    """Bytes that one token takes in the cache over all layers."""
    return sum(
        2 * layer.mixer.kv_heads * layer.mixer.head_dim * element_size for layer in spec.layers
    )
