"""A simulated device with a known latency law, for tests."""
