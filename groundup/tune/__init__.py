"""The search for better values: a learning-rate range test, and trials chosen by Optuna."""
