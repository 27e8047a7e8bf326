"""Report of an evaluation: charts, films, one self-contained page."""
