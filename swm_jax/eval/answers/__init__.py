"""Questions about held-out episodes: accuracy and action sensitivity."""
