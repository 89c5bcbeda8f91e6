"""The recording: typed events, the file, its reader. Needs no torch."""
