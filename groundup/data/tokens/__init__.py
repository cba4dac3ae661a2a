"""The tokenizer, and token shards."""
