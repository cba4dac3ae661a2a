"""The one loop, its state and checkpoints, and what hangs on it."""
