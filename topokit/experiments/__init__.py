"""Runs, their records, and studies of many runs.

This package holds configurations, the training loop, run directories and their frames, sweeps,
comparisons and the statistics over seeds. Imports from `graph`, `generators`, `measures`, `rules`,
`nn` and `data`; `record` and `statistics` never import torch, so that finished runs are read
without it.
"""
