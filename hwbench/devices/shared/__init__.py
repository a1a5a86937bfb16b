"""What several families of drivers share: the lock, facts of this computer, the native runner, ONNX Runtime's profiles."""
