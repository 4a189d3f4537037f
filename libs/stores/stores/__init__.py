"""Online, offline and batch stores: one interface each, embedded, distributed and null."""
