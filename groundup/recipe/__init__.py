"""The one typed config: sections, presets, loading with positions, and what is printed of it."""
