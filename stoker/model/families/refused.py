"""Architectures that transformers generates text with and Stoker does not, each with the reason."""

from __future__ import annotations

ENCODER = "an encoder; its published checkpoints fill gaps and don't generate"
SPLIT = "the decoder of an encoder-decoder model, which reads what its encoder makes"
IMAGES = "reads images or sound; no text model of its own is published"
INDEXER = "an indexer chooses the tokens that each query sees; not built yet"
MORE_STATE = "a recurrent layer of a kind of its own; not built yet"
SHAPE = "layers of a shape of its own; not built yet"

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "BertLMHeadModel",
            "BertGenerationDecoder",
            "BigBirdForCausalLM",
            "CamembertForCausalLM",
            "Data2VecTextForCausalLM",
            "ElectraForCausalLM",
            "ErnieForCausalLM",
            "MegatronBertForCausalLM",
            "RemBertForCausalLM",
            "RobertaForCausalLM",
            "RobertaPreLayerNormForCausalLM",
            "RoCBertForCausalLM",
            "RoFormerForCausalLM",
            "XLMRobertaForCausalLM",
            "XLMRobertaXLForCausalLM",
            "XLMWithLMHeadModel",
            "XmodForCausalLM",
        ),
        ENCODER,
    ),
    **dict.fromkeys(
        (
            "BartForCausalLM",
            "BigBirdPegasusForCausalLM",
            "BlenderbotForCausalLM",
            "BlenderbotSmallForCausalLM",
            "MarianForCausalLM",
            "MBartForCausalLM",
            "MusicgenForCausalLM",
            "MusicgenMelodyForCausalLM",
            "MvpForCausalLM",
            "PegasusForCausalLM",
            "PLBartForCausalLM",
            "ProphetNetForCausalLM",
            "TrOCRForCausalLM",
            "WhisperForCausalLM",
        ),
        SPLIT,
    ),
    **dict.fromkeys(
        (
            "FuyuForCausalLM",
            "GitForCausalLM",
            "GotOcr2ForConditionalGeneration",
            "MllamaForCausalLM",
            "MoshiForCausalLM",
            "MossTranscribeDiarizeForConditionalGeneration",
            "Phi4MultimodalForCausalLM",
        ),
        IMAGES,
    ),
    **dict.fromkeys(
        (
            "AXK2ForCausalLM",
            "DeepseekV4ForCausalLM",
            "Dots3NoteForCausalLM",
            "HYV4ForCausalLM",
            "MiniMaxM3VLForCausalLM",
            "Qwen4ExpForCausalLM",
        ),
        INDEXER,
    ),
    **dict.fromkeys(
        (
            "RwkvForCausalLM",
            "xLSTMForCausalLM",
        ),
        MORE_STATE,
    ),
    **dict.fromkeys(
        (
            "BeamForCausalLM",
            "CohereCompassForCausalLM",
            "CpmAntForCausalLM",
            "CTRLLMHeadModel",
            "DoryForCausalLM",
            "GPTNeoXJapaneseForCausalLM",
            "HrmTextForCausalLM",
            "Inkling2ForCausalLM",
            "Inkling2LoopForCausalLM",
            "InklingForCausalLM",
            "XGLMForCausalLM",
            "ZayaForCausalLM",
        ),
        SHAPE,
    ),
    "BltForCausalLM": "works on patches of bytes of varying length, found by a model of its own",
    "Gemma4AssistantForCausalLM": "drafts for Gemma 4, whose states it reads",
    "Gemma4UnifiedAssistantForCausalLM": "drafts for Gemma 4, whose states it reads",
    "ReformerModelWithLMHead": "attends within buckets of hashed tokens",
    "XLNetLMHeadModel": "reads its own past in two streams, and a prompt in both directions",
}
