"""The version of hwbench, where every room can read it without loading the package's front door."""

__version__ = "0.1.0"
