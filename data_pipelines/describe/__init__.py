"""Description of a data set: `python -m data_pipelines.describe`."""
