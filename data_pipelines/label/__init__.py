"""Labels for episodes without exact answers: `python -m data_pipelines.label`."""
