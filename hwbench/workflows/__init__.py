"""What a user asks for, one file each; the only rooms that join model, device, store and search."""
