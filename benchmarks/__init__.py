"""What ``make bench`` runs: ratios against peers, measured side by side in one run."""
