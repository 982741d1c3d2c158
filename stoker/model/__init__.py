"""What a model is (`spec/`), the families, the transformer that executes any of them, cache
tensors, weights and loading.
"""
