"""Mending texts."""
