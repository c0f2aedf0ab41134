"""Scores of predictions against gold labels: shares of 1, or correlations in [-1, 1]. None is NaN only because a model
says the same of everything."""
