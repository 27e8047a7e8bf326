"""Schema of stored episodes: validation, writing, reading."""
