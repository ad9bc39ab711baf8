"""The running of a study: cells, their folders, and where they run."""
