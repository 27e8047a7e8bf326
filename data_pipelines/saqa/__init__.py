"""Questions about stored episodes: pools, balance, draws, tokens."""
