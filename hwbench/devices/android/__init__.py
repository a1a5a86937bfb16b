"""Phones and boards over adb."""
