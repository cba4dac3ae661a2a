"""What will it take? Parameters, FLOPs, memory and time, from a recipe alone."""
