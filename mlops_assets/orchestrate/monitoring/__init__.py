"""Steps of monitors: drift and performance reports of each window, and alerts."""
