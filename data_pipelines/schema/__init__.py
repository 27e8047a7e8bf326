"""One schema of episodes: what is stored, written and read back."""
