"""AMC: reinforcement learning picks every width (He et al., ECCV 2018)."""
