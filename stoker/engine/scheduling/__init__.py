"""Which sequences run how many tokens in a step, over which blocks. No tensors."""
