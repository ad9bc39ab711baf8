"""Multi-task and continual environments for Gymnasium."""
