"""The Python API: `LLM`, `AsyncEngine`, embeddings and scores, beam search."""
