"""What serves what on this machine and why, and what would make it faster."""
