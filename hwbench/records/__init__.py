"""What is kept and named: measurements, devices, findings, layer keys. Pure data."""
