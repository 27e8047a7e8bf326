"""The board: a peg pushes eight blocks about a table, as in Language-Table."""
