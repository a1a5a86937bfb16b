"""ONNX Runtime in the native runner, on this computer or on a phone.

The engine, the prepared sessions, and its profile joined to layers.
"""
