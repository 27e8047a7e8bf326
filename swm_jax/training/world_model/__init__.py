"""Training of the semantic world model: losses, auxiliary heads, batches."""
