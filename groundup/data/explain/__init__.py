"""What happened to documents on their way, told from what the stages left behind."""
