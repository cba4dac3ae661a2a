"""The same numbers in every layout: every supported layout against a single process."""
