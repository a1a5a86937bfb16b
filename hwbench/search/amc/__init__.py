"""AMC: reinforcement learning picks every width (He et al., ECCV 2018).

`method` says what it is to the rest of hwbench, `options` what can be chosen, `search` proposes
networks, `walk` is an episode, `agent` learns, `single_weights` is the paper's fine-grained
pruning.
"""
