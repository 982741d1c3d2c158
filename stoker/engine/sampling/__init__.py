"""What a request may ask of its draws beyond temperature, top-k and top-p, a file per matter.

    rules      a request's parameters, checked against the model and made ready; no torch
    controls   a row's rules and state, and what the sampler found out about it; no torch
    processors, masks, penalties      change the logits, in this order
    filters, nucleus    cut the tail of the distribution
    logprobs   of drawn tokens and of prompts

`engine/sampler.py` joins them.
"""
