"""This computer's CPU through ONNX Runtime."""
