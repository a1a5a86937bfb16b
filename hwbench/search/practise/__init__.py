"""PRACTISE: whole blocks are dropped, with few images (Wang and Wu, CVPR 2023)."""
