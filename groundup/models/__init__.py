"""Step 2, design the model: the decoder, its initialisation, and Hugging Face weights in both directions."""
