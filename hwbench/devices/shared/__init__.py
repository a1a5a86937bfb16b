"""What several families of drivers share.

The lock, the grammar of addresses, facts of this computer, inputs, the joining of a runtime's rows
to layers, the native runner, and ONNX Runtime's profiles.
"""
