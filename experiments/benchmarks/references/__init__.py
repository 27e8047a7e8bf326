"""What is measured against: the loops and loaders that others use."""
