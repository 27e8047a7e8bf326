"""Generation of data sets in simulation: `python -m data_pipelines.generate`."""
