"""What several measurements share: clocks, workloads, ways to train."""
