"""One file per operation: the plain-PyTorch reference, faster implementations, and the choice
between them; C kernels in `native/`, Triton kernels in `triton/`.
"""
