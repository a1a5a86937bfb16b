"""The way to a phone: adb without its command-line program."""
