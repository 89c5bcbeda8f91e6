"""Layout of a recording: one SQLite database, written in WAL mode.

WAL is what makes a recording survive `kill -9`: a committed transaction is in the page cache of the
operating system and outlives the process. Opening the file replays it.

Births and deaths of storages are the bulk of a recording. They lie in one row a tick, in several where a tick
has very many, as rows of little-endian 64-bit integers that refer to the small tables `name`, `location` and `module`.
"""

from __future__ import annotations

APPLICATION_ID = 0x6D656D70
"""`PRAGMA application_id` of a recording: "memp" in ASCII."""

FORMAT_VERSION = 6
"""`PRAGMA user_version` of recordings written now; readers accept this and everything older."""

NONE = -1
"""Stands for None in a packed column; ids and sizes are never negative."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE name (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE location (id INTEGER PRIMARY KEY, file TEXT NOT NULL, line INTEGER NOT NULL, function TEXT NOT NULL);
CREATE TABLE module (id INTEGER PRIMARY KEY, path TEXT NOT NULL, type_name TEXT NOT NULL);
CREATE TABLE tick (
    id INTEGER PRIMARY KEY,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    call INTEGER,
    forward_bytes INTEGER,
    consumed BLOB,
    samples BLOB,
    passes BLOB,
    uses BLOB
);
CREATE TABLE storages (id INTEGER PRIMARY KEY, births BLOB NOT NULL, deaths BLOB NOT NULL, last_uses BLOB);
CREATE TABLE role (storage INTEGER NOT NULL, role INTEGER NOT NULL, name TEXT NOT NULL);
CREATE TABLE stack (
    id INTEGER PRIMARY KEY,
    location INTEGER NOT NULL,
    frames BLOB NOT NULL,
    module INTEGER NOT NULL,
    forward_location INTEGER NOT NULL
);
CREATE TABLE blocks (id INTEGER PRIMARY KEY, tick INTEGER NOT NULL, events BLOB NOT NULL);
CREATE TABLE segments (id INTEGER PRIMARY KEY, tick INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE device_state (id INTEGER PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE oom (id INTEGER PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE parameters (id INTEGER PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE census (id INTEGER PRIMARY KEY, tick INTEGER NOT NULL, data TEXT NOT NULL);
"""

BIRTH_COLUMNS = (
    "storage",
    "time_ns",
    "tick",
    "phase",
    "nbytes",
    "dtype",
    "device",
    "op",
    "location",
    "forward_location",
    "module",
    "address",
)
DEATH_COLUMNS = ("storage", "time_ns", "tick", "phase")
SAMPLE_COLUMNS = (
    "time_ns",
    "phase",
    "ends",
    "device",
    "allocated_bytes",
    "reserved_bytes",
    "peak_allocated_bytes",
    "operations",
)
PASS_COLUMNS = ("pass", "kind", "start_ns", "end_ns", "location", "subject", "flags", "saved_bytes", "gradients")
"""Since version 3."""
USE_COLUMNS = ("backward", "forward")
"""Passes; since version 3."""
LAST_USE_COLUMNS = ("storage", "time_ns")
"""Of watched storages from 64 KiB; since version 3."""
BLOCK_COLUMNS = ("device", "action", "time_ns", "address", "nbytes", "stream", "stack")
"""Events of the caching allocator; `time_ns` is on the clock of ticks."""
SEGMENT_COLUMNS = (
    "device",
    "segment",
    "segment_nbytes",
    "stream",
    "large",
    "pool_0",
    "pool_1",
    "expandable",
    "address",
    "nbytes",
    "requested_bytes",
    "state",
    "stack",
)
"""One row a block; rows of one segment follow each other."""
