"""Formats of weights: how a matrix is stored, what it stands for, and who multiplies by it."""
