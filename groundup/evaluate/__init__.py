"""Step 5, evaluate: loss, perplexity, bits per byte, sample texts."""
