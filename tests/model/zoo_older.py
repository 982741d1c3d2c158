"""Rows of the zoo: older decoders, most of them with layer norms."""

GPT = {
    "vocab_size": 200,
    "n_positions": 256,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "initializer_range": 0.15,
}
UNTIED = {"tie_word_embeddings": False}
WIDE = {**GPT, "initializer_range": 0.4}  # or else a tied head repeats what it reads
ROTARY = {**GPT, "n_embd": 64, "rotary_dim": 8}
NEO = {
    "vocab_size": 200,
    "max_position_embeddings": 256,
    "hidden_size": 48,
    "num_layers": 3,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1], [["global"], 1]],
    "window_size": 16,
    "initializer_range": 0.15,
}
MPT = {
    "vocab_size": 200,
    "d_model": 48,
    "n_heads": 4,
    "n_layers": 3,
    "max_seq_len": 256,
    "initializer_range": 0.15,
}
ALIKE = {"head_dim": None, "num_key_value_heads": None}  # a key-value head for each query head
SIX_HEADS = {"hidden_size": 60, "num_attention_heads": 6}
BLOOM = {
    "vocab_size": 200,
    "hidden_size": 48,
    "n_layer": 3,
    "n_head": 6,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,
}
FALCON = {**ALIKE, "hidden_size": 64, "bias": True}

OLDER = {
    "gpt": ("OpenAIGPT", {**GPT, **UNTIED, "n_layer": 2, "initializer_range": 1.0}),
    "gpt_neo": ("GPTNeo", NEO),
    "gptj": ("GPTJ", ROTARY),
    "codegen": ("CodeGen", ROTARY),
    "gpt_bigcode": ("GPTBigCode", WIDE),
    "gpt_bigcode_heads": ("GPTBigCode", {**WIDE, "multi_query": False}),
    "phi": ("Phi", {**ALIKE, "hidden_size": 64}),
    "phi_qk_norm": (
        "Phi",
        {"head_dim": None, "hidden_size": 64, "qk_layernorm": True, "initializer_range": 0.4},
    ),
    "stablelm": ("StableLm", {"head_dim": None, "hidden_size": 64}),
    "stablelm_parallel": (
        "StableLm",
        {
            "head_dim": None,
            "hidden_size": 64,
            "use_parallel_residual": True,
            "use_qkv_bias": True,
        },
    ),
    "olmo": ("Olmo", {**ALIKE, "clip_qkv": 1.5}),
    "persimmon": ("Persimmon", {**ALIKE, "hidden_size": 64}),
    "biogpt": ("BioGpt", {**ALIKE, **UNTIED, "initializer_range": 0.6}),
    "falcon": ("Falcon", FALCON),
    "falcon_grouped": (
        "Falcon",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False},
    ),
    "falcon_one_norm": (
        "Falcon",
        {
            **FALCON,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
    ),
    "falcon_serial": ("Falcon", {**FALCON, "multi_query": False, "parallel_attn": False}),
    "falcon_alibi": (
        "Falcon",
        {**FALCON, "alibi": True, "hidden_size": 60, "num_attention_heads": 6},
    ),
    "bloom": ("Bloom", BLOOM),
    "mpt": ("Mpt", {**MPT, "attn_config": {"clip_qkv": 2.0}}),
    "mpt_odd": ("Mpt", {**MPT, "d_model": 60, "n_heads": 6}),
}
FUSED = {"falcon_alibi"}  # compared with another implementation of attention
OWN_SIZES = {"Bloom", "Mpt", "OpenAIGPT", "GPTNeo", "GPTJ", "CodeGen", "GPTBigCode"}
