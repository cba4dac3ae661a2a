"""Which documents are dropped: rules over tags, and the rules of published pipelines."""
