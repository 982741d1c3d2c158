"""Cache blocks: who owns them, and which content they hold. No tensors."""
