"""Step 4, optimise: optimizers, schedules, losses, gradient norm, precision."""
