"""What a run says about itself: metrics, goodput, profiles."""
