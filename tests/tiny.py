"""The sizes of tiny random checkpoints."""

VOCAB = 300
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # large, so that tokens do not repeat themselves
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
