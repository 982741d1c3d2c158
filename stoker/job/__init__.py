"""Jobs over files: rows in, prompts, the journal, results out, resuming, replicas."""
