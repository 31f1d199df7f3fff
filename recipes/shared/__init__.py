"""What several recipes share: settings, ranks, training, and the mixture of sources."""
