"""From examples to models: baselines, logistic regression, gradient boosting, and how good each is."""
