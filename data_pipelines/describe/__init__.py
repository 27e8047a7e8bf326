"""What a data set holds: `python -m data_pipelines.describe`."""
