"""A step on the device and back: arrays, tensors, forward pass, CUDA graphs."""
