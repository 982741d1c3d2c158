"""One file per command: arguments and printing."""
