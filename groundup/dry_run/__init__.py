"""A training step as one rank of many, on fake tensors and a fake process group."""
