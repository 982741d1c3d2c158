"""The Python API: `LLM`, `AsyncLLM`, embeddings and scores, beam search."""
