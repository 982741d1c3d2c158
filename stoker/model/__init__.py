"""What a model is (`spec.py`), the families, the transformer that executes any of them, cache
tensors, weights and loading.
"""
