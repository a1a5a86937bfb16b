"""NVIDIA GPUs through PyTorch and TensorRT."""
