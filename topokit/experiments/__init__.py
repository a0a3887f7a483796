"""What a run is, what is recorded of it, and what a study is.

Here belong configurations, the training loop, run directories and their frames, sweeps,
comparisons and the statistics over seeds. Imports from `graph`, `generators`, `measures`, `rules`,
`nn` and `data`; `record` and `statistics` never import torch, so that finished runs are read
without it.
"""
