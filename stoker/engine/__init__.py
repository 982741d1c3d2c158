"""Requests in, steps of the loop, text out: `engine.py`, `loop.py`, and what they keep of a
request under way.
"""
