"""A model as data: layers with their own sizes, and nothing of any family's name.

A family turns its Hugging Face config into a `ModelSpec` (families/); one transformer executes any
of them (transformer.py). A kind of mixer or network is a file here, and one in layers/.
"""
