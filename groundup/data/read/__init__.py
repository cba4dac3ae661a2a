"""From sources to texts: which files there are, and the documents in them."""
