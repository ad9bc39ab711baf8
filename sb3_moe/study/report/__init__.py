"""What came out of a study: measures, verdicts, and the page."""
