"""hwbench: how fast is this network on that device, and what would a smaller one gain?"""

__version__ = "0.1.0"
