"""Generated data: `python -m data_pipelines.generate`."""
