"""Steps of monitors: drift and performance reports of each window, their decisions and alerts."""
