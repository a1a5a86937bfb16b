"""How a table is made: networks proposed, measured, fitted, validated, recalibrated."""
