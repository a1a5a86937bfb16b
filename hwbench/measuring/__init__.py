"""The measuring core: sessions, warm-up, interleaved blocks, layer profiles, when to stop."""
