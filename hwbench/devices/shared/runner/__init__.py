"""The native runner: built, started, and spoken to."""
