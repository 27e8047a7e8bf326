"""The semantic world model as the loop trains it: losses, read-outs, batches."""
