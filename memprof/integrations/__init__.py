"""memprof inside other tools; each module needs the tool it is for."""
