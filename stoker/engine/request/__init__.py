"""What was asked and what came of it: plain data without tensors, read by every room above."""
