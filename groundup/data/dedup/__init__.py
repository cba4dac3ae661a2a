"""Documents and passages that say the same: found by hashes, signatures, bands and clusters."""
