"""What is run.

- `workload` is what a device runs; `intake` makes one of whatever people have, `zoo` builds
  networks.
- `graph` says which layers a model has, `structure` what can be pruned in it, `prunable` puts a
  network and its structure together, `widths` says which widths pruning chooses by default.
"""
