"""Programs around hwbench: the native runner, and the studies whose results lie in results/."""
