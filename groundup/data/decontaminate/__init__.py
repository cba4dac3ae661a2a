"""Documents that hold texts of the evaluation files."""
