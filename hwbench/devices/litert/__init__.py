"""This computer's CPU through LiteRT (TensorFlow Lite)."""
