"""Tests that need torch; a package, so that its modules share the small world."""
