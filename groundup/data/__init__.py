"""Step 1, prepare the data: from raw files to token shards and the batch stream."""
