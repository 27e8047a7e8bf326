"""References for comparison: published loops and usual data loaders."""
