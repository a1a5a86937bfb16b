"""`hwbench search`: a smaller network within a budget, and how fast it really is."""
