"""PRACTISE: whole blocks are dropped, with few images (Wang and Wu, CVPR 2023).

`method` says what it is to the rest of hwbench, with its options, and scores blocks; `search`
chooses among them.
"""
