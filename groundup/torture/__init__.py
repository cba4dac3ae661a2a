"""`groundup torture`: trains a small model through faults at random moments, and holds it against a training that had
none. See docs/reliability.md."""
