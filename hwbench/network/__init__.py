"""What is run: workloads, their graphs and layers, what can be pruned, the zoo, and the intake of model files."""
