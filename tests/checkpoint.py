"""A saved model, and its own greedy answers and logits to compare with."""

import torch


class Checkpoint:
    """A saved model: its folder, and transformers' own greedy answers."""

    def __init__(self, folder, model):
        self.folder = str(folder)
        self.model = model.eval()
        self._known = {}
        self._logits = {}

    def greedy(self, prompt, count, guess=None):
        """The greedy answer of `count` tokens; a right `guess` costs one forward instead of steps.

        A guess is right if each of its tokens is the most likely after those before it: the first
        is then the greedy one, so the second follows the same tokens as the greedy one, and so on.
        """
        key = (tuple(prompt), count)
        if key not in self._known:
            right = guess is not None and len(guess) == count and self._is_greedy(prompt, guess)
            self._known[key] = guess if right else self._generate(prompt, count)
        return self._known[key]

    def _is_greedy(self, prompt, tokens):
        # the logits at the prompt's last token give the first of `tokens`
        logits = self.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
        return logits.argmax(-1).tolist() == tokens

    @torch.inference_mode()
    def _generate(self, prompt, count):
        ids = torch.tensor([list(prompt)])
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
        )
        return out[0, len(prompt) :].tolist()

    def logits(self, tokens):
        """Logits (len(tokens), V)."""
        key = tuple(tokens)
        if key not in self._logits:
            self._logits[key] = self._forward(tokens)
        return self._logits[key]

    @torch.inference_mode()
    def _forward(self, tokens):
        return self.model(torch.tensor([tokens])).logits[0]
