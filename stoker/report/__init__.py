"""What is recorded of a run, its page, and results read again."""
