"""Knapsack: measured sensitivities, and an exact allocation of the budget over the table's costs.

`method` says what it is to the rest of hwbench, with its options; `search` is the state machine,
`sensitivity` the model of the loss of quality that it learns, `allocation` the solver.
"""
