"""Making a prior: recipes, training volumes, the training itself, and the model card."""
