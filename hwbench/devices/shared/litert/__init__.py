"""What all devices that run LiteRT share: its profile, and the layers that a row works for."""
