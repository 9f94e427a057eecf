"""What damage does: `kill_test` kills the whole chain again and again, `fuzz` feeds it damaged files."""
