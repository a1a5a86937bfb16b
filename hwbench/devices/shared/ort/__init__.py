"""ONNX Runtime in the native runner, on this computer or on a phone: engine, prepared sessions, its profile joined to layers."""
