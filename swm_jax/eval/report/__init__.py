"""The report: charts, films, one self-contained page."""
