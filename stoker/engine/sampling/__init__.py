"""Draws: parameters and constraints of rows, and the sampler."""
