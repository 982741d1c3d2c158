"""Makes the layers of a model, and what they read beside the residual."""

from __future__ import annotations

from torch import nn

from stoker.model.layers.block import Block
from stoker.model.layers.shared import BlockBehindShared, KeptEmbeddings
from stoker.model.layers.streams import StreamsBlock
from stoker.model.layers.token_inputs import TokenInputs
from stoker.model.layers.weighted_block import WeightedBlock
from stoker.model.spec.model import ModelSpec


def make_layers(spec: ModelSpec) -> nn.ModuleList:
    """All layers, those behind a shared block with its weights."""
    layers = nn.ModuleList(_kind(spec, index)(spec, index) for index in range(len(spec.layers)))
    for layer in layers:
        if isinstance(layer, BlockBehindShared):
            layer.borrow(layers)
    return layers


def make_token_inputs(spec: ModelSpec) -> TokenInputs | KeptEmbeddings | None:
    """What makes `StepContext.token_inputs`, if layers read those."""
    if spec.token_inputs:
        return TokenInputs(spec.token_inputs, spec)
    return KeptEmbeddings() if spec.reads_embeddings else None


def _kind(spec: ModelSpec, index: int) -> type[Block]:
    layer = spec.layers[index]
    if layer.streams:
        return StreamsBlock
    if layer.shared:
        return BlockBehindShared
    return WeightedBlock if layer.weighted_residual else Block
