"""ABCPruner: an artificial bee colony picks every width (Lin et al., IJCAI 2020).

`method` says what it is to the rest of hwbench, with its options; `search` is the colony.
"""
