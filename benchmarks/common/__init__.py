"""What the benchmarks share: rounds, figures, servers and the things compared with."""
