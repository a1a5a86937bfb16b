"""This computer's CPU through OpenVINO."""
