"""`python -m hwbench`: the same as the command `hwbench`."""

from hwbench.cli import run

if __name__ == "__main__":
    run()
