"""Groundup: the whole course of training a large model, from raw data to a served model, in one recipe."""

__version__ = "0.1.0"
