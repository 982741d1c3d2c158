"""Which module executes which spec: the one place where a kind of mixer or network is entered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.model.layers.attention import Attention
from stoker.model.layers.convolution import GatedConv
from stoker.model.layers.delta import GatedDeltaNet
from stoker.model.layers.experts import Experts
from stoker.model.layers.head_experts import HeadExperts
from stoker.model.layers.latent import LatentAttention
from stoker.model.layers.lightning import LightningAttention
from stoker.model.layers.linear import LayerPart
from stoker.model.layers.networks import Dense, LinearMap
from stoker.model.layers.normed_experts import NormedExperts
from stoker.model.layers.rg_lru import RecurrentBlock
from stoker.model.layers.shortcut import Shortcut, ShortcutEnd
from stoker.model.layers.side_by_side import SideBySide
from stoker.model.layers.state_space import Mamba, Mamba2
from stoker.model.layers.value_widths import BiasedKeys, Differential, ValueWidth
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.convolution import ConvSpec
from stoker.model.spec.delta import DeltaSpec
from stoker.model.spec.experts import ExpertsSpec, NormedExpertsSpec
from stoker.model.spec.head_experts import HeadExpertsSpec
from stoker.model.spec.latent import LatentSpec
from stoker.model.spec.lightning import LightningSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec, LinearMapSpec
from stoker.model.spec.part import PartSpec
from stoker.model.spec.rg_lru import RgLruSpec
from stoker.model.spec.shortcut import ShortcutEndSpec, ShortcutSpec
from stoker.model.spec.side_by_side import SideBySideSpec
from stoker.model.spec.state_space import Mamba2Spec, MambaSpec
from stoker.model.spec.value_widths import BiasedKeysSpec, DifferentialSpec, ValueWidthSpec

# from a part's spec, the model and the layer's index
Kinds = dict[type[PartSpec], Callable[[Any, ModelSpec, int], LayerPart]]

MIXERS: Kinds = {
    AttentionSpec: Attention,
    HeadExpertsSpec: HeadExperts,
    ValueWidthSpec: ValueWidth,
    BiasedKeysSpec: BiasedKeys,
    DifferentialSpec: Differential,
    ConvSpec: GatedConv,
    LatentSpec: LatentAttention,
    MambaSpec: Mamba,
    Mamba2Spec: Mamba2,
    DeltaSpec: GatedDeltaNet,
    SideBySideSpec: SideBySide,
    RgLruSpec: RecurrentBlock,
    LightningSpec: LightningAttention,
    LinearMapSpec: LinearMap,
}
NETWORKS: Kinds = {
    DenseSpec: Dense,
    ExpertsSpec: Experts,
    NormedExpertsSpec: NormedExperts,
    ShortcutSpec: Shortcut,
    ShortcutEndSpec: ShortcutEnd,
    LinearMapSpec: LinearMap,
}
